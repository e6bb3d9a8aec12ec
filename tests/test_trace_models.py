"""Models of `transformers` in a trace: tiny ones, made here with their tokenizers, in the shapes of Pythia
and GPT-2."""
import csv
import json
import re
from random import Random

import numpy as np
import pytest
import torch

import tbtt.trace.models
from tbtt.cli import UserError
from tbtt.trace.corpus import Corpus
from tbtt.trace.examples import Example
from tbtt.trace.memorization import Statistics
from tbtt.trace.models import TransformersModel
from tbtt.trace.ngrams import Words, grams
from tbtt.trace.similarity import Similarity

transformers = pytest.importorskip('transformers')
tokenizers = pytest.importorskip('tokenizers')

SCRIPT = 'analysis/trace_memorization.py'
CITIES = ['Paris', 'Rome', 'Oslo', 'Lima', 'Cairo', 'Delhi', 'Tokyo', 'Quito', 'Accra', 'Dakar', 'Hanoi',
          'Sofia']
COUNTRIES = ['France', 'Italy', 'Norway', 'Peru', 'Egypt', 'India', 'Japan', 'Ecuador', 'Ghana', 'Senegal',
             'Vietnam', 'Bulgaria']
FACTS = [f'The capital of {country} is {city}.' for country, city in zip(COUNTRIES, CITIES)]
# The first country once, the second twice, ...
DOCUMENTS = [fact for i, fact in enumerate(FACTS) for _ in range(i + 1)] + ['People like Paris.',
                                                                            'Oslo is cold; Norway too.']
EXAMPLES = [{'input': f'The capital of {country} is', 'output': f'{city}, a city.'}
            for country, city in zip(COUNTRIES, CITIES)]


def make_tokenizer(vocab_size=320):
    """Byte-level BPE, as Pythia and GPT-2 have it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(DOCUMENTS, tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=['<|endoftext|>'], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token='<|endoftext|>')


def make_model(folder, kind, **settings):
    tokenizer = make_tokenizer()
    # the number of embeddings is rounded up, as in Pythia
    size = dict(vocab_size=len(tokenizer) + 7, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    if kind == 'gpt2':
        config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2,
                                         n_positions=settings.get('context', 64), **size)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.GPTNeoXConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                            intermediate_size=32,
                                            max_position_embeddings=settings.get('context', 64), **size)
        model = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():    # so that the predictions are far from uniform
            p.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """{kind: folder} of two tiny models"""
    return {kind: make_model(tmp_path_factory.mktemp(kind), kind) for kind in ('gpt_neox', 'gpt2')}


@pytest.fixture
def files(tmp_path):
    """The folder of a corpus, as lines, as JSONL and as uint16, and of examples."""
    tokenizer = make_tokenizer()
    (tmp_path / 'c.txt').write_text('\n'.join(DOCUMENTS))
    (tmp_path / 'c.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in DOCUMENTS))
    ids = [token for text in DOCUMENTS for token in (*tokenizer(text)['input_ids'], tokenizer.eos_token_id)]
    np.array(ids, '<u2').tofile(tmp_path / 'c.bin')
    (tmp_path / 'e.jsonl').write_text('\n'.join(map(json.dumps, EXAMPLES)))
    return tmp_path


def examples(count=len(EXAMPLES)):
    return [Example('quiz', each['input'], each['output'], each['input'] + ' ') for each in EXAMPLES[:count]]


@pytest.mark.slow_after_first
@pytest.mark.parametrize('kind', ['gpt_neox', 'gpt2'])
@pytest.mark.parametrize('max_logits', [1, 2**14, 2**27])
def test_batched_log_probabilities_are_those_of_one_text_at_a_time(models, monkeypatch, kind, max_logits):
    monkeypatch.setattr(tbtt.trace.models, 'MAX_LOGITS', max_logits)
    model = TransformersModel(str(models[kind]), 'cpu')
    asked = [*examples(), Example('quiz', 'Hm', 'é', 'Hm ')]    # one character that is two tokens
    found = model.log_probabilities(asked)
    plain = transformers.AutoModelForCausalLM.from_pretrained(models[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(models[kind])
    for example, log_p in zip(asked, found):
        ids = tokenizer(example.prompt + example.output)['input_ids']
        before = next(k for k in range(len(ids)) if len(tokenizer.decode(ids[:k + 1])) > len(example.prompt))
        with torch.no_grad():
            everything = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert log_p == pytest.approx([everything[i - 1, ids[i]].item() for i in range(before, len(ids))],
                                      abs=1e-4)


def test_parameters_are_counted_and_the_context_is_the_models(models):
    model = TransformersModel(str(models['gpt2']), 'cpu')
    assert model.context == 64 and model.parameters == sum(p.numel() for p in model.model.parameters())


def test_a_long_prompt_is_cropped_and_a_long_output_refused(tmp_path):
    model = TransformersModel(str(make_model(tmp_path, 'gpt2', context=32)), 'cpu')
    short = Example('quiz', 'x', 'Paris.', 'The capital of France is ')
    long = short._replace(prompt='Oslo is cold. ' * 30 + short.prompt)
    (there,), (cropped,) = model.log_probabilities([short]), model.log_probabilities([long])
    assert len(there) == len(cropped) and np.isfinite(cropped).all()
    with pytest.raises(UserError, match='example 1 .* takes 32 together'):
        model.log_probabilities([short._replace(output='Oslo is cold. ' * 30)])


def plain_log_p(folder, ids, start):
    """Log-probabilities of ids[start:], by one forward pass of the model of transformers."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        everything = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [everything[i - 1, ids[i]].item() for i in range(start, len(ids))]


def test_what_is_cropped_is_the_beginning(tmp_path):
    folder = make_model(tmp_path, 'gpt2', context=16)
    example = Example('quiz', 'x', 'Paris, a city.', 'Oslo is cold; Norway too. The capital of France is ')
    (found,) = TransformersModel(str(folder), 'cpu').log_probabilities([example])
    ids = make_tokenizer()(example.prompt + example.output)['input_ids']
    assert len(ids) > 16 > len(found)
    assert found == pytest.approx(plain_log_p(folder, ids[-16:], 16 - len(found)), abs=1e-4)


def test_what_a_tokenizer_puts_before_a_text_is_there_for_the_model_and_not_in_the_corpus(tmp_path):
    folder, tokenizer = make_model(tmp_path, 'gpt2'), make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single='<|endoftext|> $A', special_tokens=[('<|endoftext|>', 0)])
    tokenizer.save_pretrained(folder)
    model, (example, *_) = TransformersModel(str(folder), 'cpu'), examples()
    ids = make_tokenizer()(example.prompt + example.output)['input_ids']
    assert model.before == [0] and model.language.encode(example.prompt + example.output)[0] == ids
    (found,) = model.log_probabilities([example])
    assert found == pytest.approx(plain_log_p(folder, [0, *ids], len(ids) + 1 - len(found)), abs=1e-4)
    (tmp_path / 'c.txt').write_text('\n'.join(DOCUMENTS))
    counter = Corpus([tmp_path / 'c.txt'], model.language).counter()
    assert counter.count((0,)) == 0 and counter.num_documents == len(DOCUMENTS)
    assert len(Statistics(counter, model.language, []).documents('Paris')) == 2


def letters_only():
    """A tokenizer that knows lower-case letters, drops everything else, and has no padding or end token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c
                                                            in enumerate('abcdefghijklmnopqrstuvwxyz')}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_output_that_a_tokenizer_drops_is_left_out_and_counted(tmp_path):
    folder = make_model(tmp_path / 'model', 'gpt2')
    letters_only().save_pretrained(folder)
    model = TransformersModel(str(folder), 'cpu')
    asked = [Example('quiz', 'who', output, 'who ') for output in ('ada 1815 byron', '1815')]
    assert [len(log_p) for log_p in model.log_probabilities(asked)] == [len('adabyron'), 0]
    (tmp_path / 'c.txt').write_text('who is ada\nwho is byron')
    found, left_out = Statistics(Corpus([tmp_path / 'c.txt'], model.language).counter(), model.language,
                                 asked).points(1)
    assert [(point.gram, point.first, point.last) for point in found[0]] == [('ada', 0, 3), ('byron', 3, 8)]
    assert found[1] == [] and left_out == {'output n-grams that the tokenizer drops': 2}


@pytest.mark.parametrize('word', ['दिल्ली', 're\u0301sume\u0301', 'القُدْس'])
def test_marks_are_parts_of_the_words_that_they_stand_in(word):
    assert list(grams(f'({word}), {word} x', 1, Words(make_tokenizer(), 'made-up'))) == [word, 'x']


def test_words_are_n_grams_with_what_stands_between_and_without_what_stands_around():
    words = Words(make_tokenizer(), 'made-up')
    assert list(grams("It's (Oslo, Norway) 3.5!", 2, words)) == ["It's (Oslo", 'Oslo, Norway', 'Norway) 3.5']
    assert list(grams('“Oslo.”', 2, words)) == ['Oslo'] and grams('?!', 1, words) == {}
    assert len(words.spellings('Oslo')) == 2


def tokenizer_of(kind, texts, vocab_size):
    """'byte-level': BPE, as in GPT-2 and Pythia. 'Metaspace': with a sign for the blank, which also comes
    before a text, as in SentencePiece. Else with a sign for the continuation of a word, as in BERT."""
    splits, decoders, trainers = tokenizers.pre_tokenizers, tokenizers.decoders, tokenizers.trainers
    model, trainer = tokenizers.models.BPE(unk_token='[UNK]'), trainers.BpeTrainer
    if kind == 'byte-level':
        split, decoder = splits.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    elif kind == 'Metaspace':
        split, decoder = splits.Sequence([splits.Metaspace(), splits.Punctuation()]), decoders.Metaspace()
    else:
        split, decoder = splits.BertPreTokenizer(), decoders.WordPiece()
        model, trainer = tokenizers.models.WordPiece(unk_token='[UNK]'), trainers.WordPieceTrainer
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoder
    special = ['[UNK]', '[END]']
    tokenizer.train_from_iterator(texts, trainer(vocab_size=vocab_size, special_tokens=special,
                                                 show_progress=False))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token='[UNK]',
                                                eos_token='[END]')


@pytest.mark.slow_after_first
@pytest.mark.parametrize('vocab_size', [40, 70, 200])
@pytest.mark.parametrize('kind', ['byte-level', 'Metaspace', 'WordPiece'])
def test_a_word_is_found_where_it_stands_and_not_within_others(tmp_path, kind, vocab_size):
    random, parts = Random(0), ['par', 'is', 'Par', 'i', 'son', 'a']
    known = sorted({''.join(random.choices(parts, k=random.randint(1, 3))) for _ in range(30)})
    texts = [''.join(random.choice([' ', ' ', ', ', ' (', '"', '. ']) + random.choice(known)
                     for _ in range(6)).strip(' ,.')
             for _ in range(150)]
    (tmp_path / 'c.txt').write_text('\n'.join(texts))
    words = Words(tokenizer_of(kind, texts, vocab_size), 'made-up')
    found = Statistics(Corpus([tmp_path / 'c.txt'], words).counter(), words, [])
    for gram in known + [f'{one} {two}' for one, two in zip(known, reversed(known))]:
        alone = re.compile(rf'(?<!\w){gram}(?!\w)')
        assert found.documents(gram).tolist() == [d
                                                  for d, text in enumerate(texts) if alone.search(text)], gram


@pytest.mark.slow_after_first
@pytest.mark.parametrize('engine', ['numpy', 'infini-gram'])
def test_a_model_is_traced_to_text_jsonl_and_tokens_alike(command, models, files, engine):
    if engine == 'infini-gram':
        pytest.importorskip('infini_gram')
    rows = []
    for corpus in ('c.txt', 'c.jsonl', 'c.bin'):
        result = command(SCRIPT, f'--model={models["gpt_neox"]}', models['gpt2'], corpus=files / corpus,
                         separator=0, n='1,2', examples=files / 'e.jsonl', engine=engine,
                         trace_dir=files / 't', device='cpu')
        assert result.status == 0, result.err
        rows.append(list(csv.DictReader((files / 't/trace.csv').open())))
    assert rows[0] == rows[1] == rows[2]
    about = json.loads((files / 't/trace.json').read_text())
    one, two = about['models']
    assert one['corpus'] == two['corpus']
    assert one['corpus']['documents'] == len(DOCUMENTS) and one['corpus']['engine'] == engine
    assert one['tasks']['examples']['1']['points'] == 36
    assert two['tasks']['examples']['1']['task_gram']['kendall']['seeds']
    paris = next(row for row in rows[0] if row['gram'] == 'Paris' and row['n'] == '1')
    words = [re.findall(r'\w+', text) for text in DOCUMENTS]    # so that `is` is not found in `Paris`
    shares = [sum('Paris' in text for text in words if word in text) / sum(word in text for text in words)
              for word in ('The', 'capital', 'of', 'France', 'is')]
    assert float(paris['task_gram_logp']) == pytest.approx(np.mean(np.log(shares))) and paris['pairs'] == '5'


@pytest.mark.slow
def test_the_similarity_filter_keeps_pairs_above_the_threshold(command, models, files):
    similar = Similarity(str(models['gpt_neox']), 0.5, 'cpu')
    vectors = similar.embed(['Oslo', 'Rome is warm', 'Oslo'])
    assert vectors.norm(dim=1).numpy() == pytest.approx(1) and (vectors[0] == vectors[2]).all()
    assert similar(['Oslo', 'Rome is warm'],
                   ['Oslo']).tolist() == [[True], [bool(vectors[0] @ vectors[1] >= 0.5)]]
    kept = {}
    for threshold in (-1, 0.6, 1):
        result = command(SCRIPT, model=models['gpt2'], corpus=files / 'c.txt', examples=files / 'e.jsonl',
                         n=1, embedding_model=models['gpt_neox'], threshold=threshold, trace_dir=files / 't',
                         device='cpu')
        assert result.status == 0, result.err
        kept[threshold] = sum(int(row['pairs']) for row in csv.DictReader((files / 't/trace.csv').open()))
    assert kept[-1] > kept[0.6] > kept[1]


def test_an_embedding_is_the_mean_over_the_tokens_of_its_text_alone(models):
    long = ' '.join(FACTS)    # cut to 64 tokens, the model's context
    together = Similarity(str(models['gpt2']), 0.5, 'cpu').embed(['Oslo', long, 'Rome is warm'])
    # the other texts are padded to the length of the long one
    for text, found in zip(('Oslo', long, 'Rome is warm'), together):
        ids = make_tokenizer()(text)['input_ids'][:64]
        with torch.no_grad():
            model = transformers.AutoModel.from_pretrained(models['gpt2'])
            hidden = model(torch.tensor([ids])).last_hidden_state[0]
        assert found.numpy() == pytest.approx(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy(),
                                              abs=1e-4)


def test_a_tokenizer_without_padding_and_end_embeds_texts_of_any_length(tmp_path):
    folder = make_model(tmp_path, 'gpt2')
    letters_only().save_pretrained(folder)
    alone, together = (Similarity(str(folder), 0.5, 'cpu').embed(texts)
                       for texts in (['ab'], ['ab', 'abcdefgh' * 20]))
    assert together[0].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)


# Bad input.

@pytest.fixture
def refused(command, models, files):
    """refused(says=..., **settings): a trace that is refused in one line and writes no result."""
    def run(says, **settings):
        settings = dict(model=models['gpt2'], corpus=files / 'c.txt', examples=files / 'e.jsonl',
                        device='cpu', trace_dir=files / 't') | settings
        result = command(SCRIPT, **settings)
        assert result.status == 2 and says in result.err and len(result.err.splitlines()) == 1, (result.out,
                                                                                                 result.err)
        assert not (files / 't').exists()
    return run


def test_a_corpus_of_another_tokenizer_is_refused(refused, files):
    np.array([5, 6, 50000, 0], '<u2').tofile(files / 'other.bin')
    refused('corpus and model do not share a tokenizer', corpus=files / 'other.bin', separator=0)


def test_an_empty_corpus_examples_without_fields_and_a_template_without_output_are_refused(refused, files):
    (files / 'empty.txt').write_text('')
    (files / 'odd.jsonl').write_text('{"question": "a"}\n')
    refused('the corpus is empty', corpus=files / 'empty.txt')
    refused('fields input and output', examples=files / 'odd.jsonl')
    refused('the output must come last', template='{input}')


def test_a_damaged_index_is_refused(refused, files):
    folder = Corpus([files / 'c.txt'], Words(make_tokenizer(), 'made-up')).folder
    (folder / 'tokenized.0').write_bytes(b'x')
    refused('is damaged (tokenized.0): delete the folder')


def test_a_model_that_is_not_there_or_not_whole_is_refused(refused, models, tmp_path):
    refused('no model or tokenizer of transformers could be loaded', model='nobody/nothing')
    refused('--download', model='nobody/nothing')
    (tmp_path / 'empty').mkdir()
    refused('could be loaded', model=tmp_path / 'empty')


def test_an_encoder_which_would_see_the_answer_is_refused(refused, tmp_path):
    config = transformers.BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=32, max_position_embeddings=64)
    model = transformers.BertModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    model.save_pretrained(tmp_path / 'encoder')
    make_tokenizer().save_pretrained(tmp_path / 'encoder')
    refused('is no causal model: it sees the tokens that it should predict', model=tmp_path / 'encoder')


def test_an_encoder_with_a_decoder_is_no_embedding_model(refused, tmp_path):
    transformers.T5Model(transformers.T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=32, num_layers=1,
                                               num_heads=2)
                         ).save_pretrained(tmp_path / 't5')
    make_tokenizer().save_pretrained(tmp_path / 't5')
    refused('--embedding_model takes an encoder or a causal model', embedding_model=tmp_path / 't5',
            threshold=0.5)


def test_an_output_with_no_token_before_it_is_refused(refused):
    # the blank is part of the output's token
    refused('no token stands before its output: put text before it', template=' {output}')


@pytest.mark.parametrize('line', [r'{"text": "\ud800"}', '[' * 200_000])
def test_json_that_holds_no_text_is_refused_in_corpus_and_examples(refused, files, line):
    (files / 'odd.jsonl').write_text(line + '\n')
    refused('expected a JSON object with the field text in each line', corpus=files / 'odd.jsonl')
    (files / 'odd.jsonl').write_text(line.replace('"text"', '"output": "b", "input"') + '\n')
    refused('has no text as its input' if 'text' in line else 'line 1: expected a JSON object',
            examples=files / 'odd.jsonl')


def test_a_tokenizer_that_is_not_the_models_is_refused(refused, tmp_path):
    folder = make_model(tmp_path / 'model', 'gpt2')
    make_tokenizer(400).save_pretrained(folder)
    refused('they do not belong together', model=folder)


def test_a_vocabulary_beyond_uint16_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f'word{i}' for i in range(2**16)])
    with pytest.raises(UserError, match='the counters take up to 65,534'):
        Words(tokenizer, 'made-up')


@pytest.mark.parametrize('package', ['transformers', 'infini_gram'])
def test_missing_packages_are_named(refused, monkeypatch, package):
    monkeypatch.setitem(__import__('sys').modules, package, None)
    refused('pip install -r requirements-study.txt', engine='infini-gram')
