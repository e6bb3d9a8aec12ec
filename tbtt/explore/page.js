'use strict';
const SYMBOLS = ['circle', 'square', 'diamond', 'cross', 'triangle-up', 'x', 'star'];
const DRAWN_AT_FIRST = 8;    // seeds: hundreds of curves are slow and hard to read
const MOST_TEXTS = 20;       // operands; with more, cells are too small for text
const MOST_TICKS = 8;        // places on an axis; with more, plotly chooses the labels
const MOST_LETTERS = 16;     // at a tick: the end is kept, where names of runs differ
const MOST_BARS = 30;        // questions in one list; more are shown in two
const PAUSE = 150;           // milliseconds from one evaluation to the next
const FONT = {family: 'system-ui, sans-serif', size: 13, color: '#1a1a1a'};
const LAYOUT = {font: FONT, margin: {l: 52, r: 10, t: 10, b: 42}, dragmode: false, hovermode: 'closest'};
const PERCENT = {title: {text: '% right'}, range: [-4, 104], fixedrange: true, zeroline: false};
const QUIET = {displayModeBar: false, responsive: true};
const TEXT_ONLY = {hovertemplate: '%{text}<extra></extra>'};

const get = id => document.getElementById(id);
const plain = text => String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;');    // plotly reads tags
const lines = texts => texts.map(plain).join('<br>');
const percent = share => `${Math.round(1000 * share) / 10}%`;
const ascending = (one, other) => one < other ? -1 : Number(one > other);
const distinct = values => [...new Set(values)].sort(ascending);
const ending = text => text.length > MOST_LETTERS ? `…${text.slice(1 - MOST_LETTERS)}` : text;
const checked = id => [...get(id).querySelectorAll('input:checked')].map(box => box.value);

const unpacked = new Map();    // id -> promise of its content
const open = {seed: 0, data: null, t: 0, question: null};    // t: evaluation; question: {k: task, p: prompt}
let about, playing = null;

function unpack(id, parse = JSON.parse) {
  if (!unpacked.has(id)) {
    const bytes = Uint8Array.from(atob(get(id).textContent), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    unpacked.set(id, new Response(stream).text().then(parse));
  }
  return unpacked.get(id);
}

function make(kind, parts, properties = {}) {    // a text in parts is inserted as text, not as HTML
  const element = Object.assign(document.createElement(kind), properties);
  element.append(...parts);
  return element;
}

function fill(select, options) {    // options: [value, label]; keeps the choice if it can
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  if (options.some(([value]) => value === before)) select.value = before;
}

// All runs.

const nameOf = seed => `${about.runs[seed.run]}, ${seed.seed}`;

function seedsShown() {
  return about.seeds.map((seed, i) => ({...seed, i})).filter(seed => seed.tasks === get('tasks').value);
}

function chooseTasks() {
  const seeds = seedsShown();
  get('seed').replaceChildren(...distinct(seeds.map(seed => seed.run)).map(run => {
    const options = seeds.filter(seed => seed.run === run).map(seed => new Option(nameOf(seed), seed.i));
    return make('optgroup', options, {label: about.runs[run]});
  }));
  const known = ([key]) => seeds.some(seed => seed.values[key] !== null);
  const differs = ([key], k) => k === 0 || distinct(seeds.map(seed => seed.values[key])).length > 1;
  const axes = Object.entries(about.axes).filter(differs);
  fill(get('score'), Object.entries(about.scores).filter(known));
  fill(get('axis'), axes);
  fill(get('colour'), [['', 'all alike'], ...axes]);
  return openSeed(seeds[0].i);
}

function drawScores() {
  const [score, axis, colour] = ['score', 'axis', 'colour'].map(id => get(id).value);
  const seeds = seedsShown().filter(seed => seed.values[score] !== null && seed.values[axis] !== null);
  const x = placesOf(seeds, axis);
  const groups = colour ? distinct(seeds.map(seed => seed.values[colour])) : [undefined];
  const traces = groups.map((value, k) => {
    const some = seeds.filter(seed => seed.values[colour] === value);
    return {...dots(some, score), name: plain(`${about.axes[colour]} ${value}`), showlegend: Boolean(colour),
            text: some.map(seed => lines(scoreTexts(seed, score))), ...TEXT_ONLY,
            marker: {size: 10, opacity: 0.65, color: about.palette[k % about.palette.length],
                     symbol: SYMBOLS[k % SYMBOLS.length]}};
  });
  const ring = {size: 19, symbol: 'circle-open', color: '#000', line: {width: 2.5}};
  traces.push({...dots(seeds.filter(seed => seed.i === open.seed), score), marker: ring, hoverinfo: 'skip',
               showlegend: false, cliponaxis: false});
  Plotly.react('scores', traces, {
    ...LAYOUT, legend: {orientation: 'h', y: 1.02, yanchor: 'bottom'},
    xaxis: {title: {text: plain(about.axes[axis])}, fixedrange: true, zeroline: false, ...x},
    yaxis: score.includes('loss') ? {title: {text: 'Loss'}, fixedrange: true} : PERCENT}, QUIET);
}

function dots(seeds, score) {
  return {type: 'scatter', mode: 'markers', customdata: seeds.map(seed => seed.i),
          x: seeds.map(seed => seed.x), y: seeds.map(seed => seed.values[score])};
}

function placesOf(seeds, axis) {    // sets x of every seed; those of one place are side by side; -> the axis
  const places = distinct(seeds.map(seed => seed.values[axis]));
  const words = places.some(place => typeof place !== 'number'), log = axis === 'num_params';
  const at = place => words ? places.indexOf(place) : log ? Math.log10(place) : place;
  const [first, last] = [at(places[0]), at(places.at(-1))], extent = last - first || 1;
  const gaps = places.slice(1).map((place, k) => at(place) - at(places[k]));
  const width = Math.min(0.15 * Math.min(...gaps), 0.05 * extent);
  for (const place of places) {
    const here = seeds.filter(seed => seed.values[axis] === place);
    here.forEach((seed, k) => {
      const x = at(place) + width * (2 * k - here.length + 1) / here.length;
      seed.x = log ? 10 ** x : x;
    });
  }
  const ticks = {tickvals: places.map((place, k) => words ? k : place),
                 ticktext: places.map(place => plain(ending(place.toLocaleString('en')))),
                 ...(words ? {tickangle: -90, automargin: true, title: {text: ''}} : {})};
  return {type: log ? 'log' : 'linear', range: [first - 0.1 * extent, last + 0.1 * extent],
          ...(words || places.length <= MOST_TICKS ? ticks : {})};
}

function scoreTexts(seed, score) {
  const {num_params: size} = seed.values;
  return [nameOf(seed), `${about.scores[score]}: ${Number(seed.values[score].toFixed(3))}`,
          ...(seed.heldout ? [`held-out questions at the end: ${seed.heldout}`] : []),
          ...(size ? [`${size.toLocaleString('en')} parameters`] : [])];
}

// The open run.

const iterations = () => open.data.answers.length ? open.data.iters : open.data.curves.iter || [];

async function openSeed(i) {
  const before = open.data && iterations()[open.t];
  open.seed = i;
  const data = await unpack(`seed${i}`);
  if (open.seed !== i) return;    // another seed was opened meanwhile
  const last = () => Math.max(iterations().length - 1, 0);
  Object.assign(open, {data, question: null});
  const same = iterations().findIndex(iteration => iteration >= before);
  open.t = before === null || same < 0 ? last() : same;
  get('seed').value = i;
  get('time').max = last();
  get('play').disabled = get('time').disabled = last() < 1;
  const seed = about.seeds[i];
  get('curves-title').textContent = `Curves of ${about.runs[seed.run]}, thick: ${seed.seed}`;
  get('answers-title').textContent = `Answers: ${nameOf(seed)}`;
  get('settings-title').textContent = `Settings: ${nameOf(seed)}`;
  drawScores();
  listCurves();
  listSettings();
  layAnswers();
  showTime();
  await drawCurves();
}

function listCurves() {
  const {run} = about.seeds[open.seed];
  if (get('seeds').dataset.run !== String(run)) {
    const siblings = [...about.seeds.entries()].filter(([, seed]) => seed.run === run);
    get('seeds').dataset.run = run;
    get('seeds').hidden = siblings.length < 2;
    get('seeds').replaceChildren(...siblings.map(([i, seed], k) =>
      check([seed.seed], i, k < DRAWN_AT_FIRST)));
  }
  get('seeds').querySelector(`[value="${open.seed}"]`).checked = true;
  const off = new Set([...get('groups').querySelectorAll('input:not(:checked)')].map(box => box.value));
  const known = Object.entries(about.curves).filter(([column]) => column in open.data.curves);
  get('groups').replaceChildren(...known.map(([column, look]) =>
    check([swatch(look), look.label], column, !off.has(column))));
}

function check(label, value, on) {
  const box = make('input', [], {type: 'checkbox', value, checked: on, onchange: drawCurves});
  return make('label', [box, ...label]);
}

function swatch({color, dash}) {
  const named = {solid: 'none', dot: '2 3', dashdot: '7 3 2 3', dash: '7 3'};
  const dashes = named[dash] || dash.replaceAll('px', '');
  const holder = make('template', []);
  holder.innerHTML = `<svg width="30" height="6" aria-hidden="true"><line x2="30" y1="3" y2="3"
    stroke-width="3" stroke="${color}" stroke-dasharray="${dashes}"/></svg>`;
  return holder.content.firstChild;
}

async function drawCurves() {
  const {seed, question, data} = open, traces = [], columns = checked('groups');
  for (const i of checked('seeds').map(Number)) {
    const {curves} = await unpack(`seed${i}`), thick = i === seed;
    for (const column of columns.filter(each => each in curves)) {
      const {color, dash, label, loss} = about.curves[column], unit = loss ? '' : '%';
      const hover = `${plain(about.seeds[i].seed)}, iteration %{x:,}<br>${label} %{y:.4~g}${unit}`;
      traces.push({type: 'scatter', mode: 'lines', x: curves.iter, y: curves[column], showlegend: false,
                   yaxis: loss ? 'y2' : 'y', line: {color, dash, width: thick ? 2.6 : 1.2},
                   opacity: thick ? 1 : 0.5, hovertemplate: `${hover}<extra></extra>`});
    }
  }
  if (seed !== open.seed || question !== open.question) return;
  if (question)
    traces.push({type: 'scatter', mode: 'lines', line: {color: '#000', width: 2}, showlegend: false,
                 x: data.iters, y: data.iters.map((_, t) => 100 * answerTo(question, t).probability),
                 hovertemplate: 'iteration %{x:,}<br>probability %{y:.1f}%<extra></extra>'});
  Plotly.react('curves', traces, {
    ...LAYOUT, shapes: [timeLine()], yaxis: {...PERCENT, domain: [0.36, 1]},
    yaxis2: {title: {text: 'Loss'}, fixedrange: true, rangemode: 'tozero', domain: [0, 0.28]},
    xaxis: {title: {text: 'Iteration'}, fixedrange: true, rangemode: 'tozero', anchor: 'y2',
            zeroline: false}}, QUIET);
}

function timeLine() {
  const x = iterations()[open.t] || 0;
  return {type: 'line', yref: 'paper', x0: x, x1: x, y0: 0, y1: 1,
          line: {color: '#555', width: 1.5, dash: 'dot'}};
}

function listSettings() {
  const {settings} = open.data;
  get('settings-part').hidden = !settings.length;
  get('settings').replaceChildren(...settings.map(([name, value, changed]) =>
    make('div', [make('dt', [name]), make('dd', [value])], {className: changed ? 'changed' : ''})));
}

// Answers.

const askedOf = k => about.questions[open.data.answers[k].questions];

function answerTo({k, p}, t = open.t) {
  const given = open.data.answers[k], asked = askedOf(k);
  const wrong = given.said[t][p], right = asked.answers[p], said = wrong ? given.texts[wrong] : right;
  const probability = given.level[t].charCodeAt(p) / 255;
  const texts = [asked.prompts[p], `right: ${right}`, `says: ${said || 'nothing'}`,
                 `probability ${percent(probability)}`, ...(asked.heldout[p] ? ['held out'] : [])];
  return {k, p, said, probability, correct: !wrong, texts, name: asked.names[p], heldout: asked.heldout[p]};
}

function layAnswers() {
  const tasks = open.data.answers.map((_, k) => ({k, ...askedOf(k)}));
  get('tables').replaceChildren(...tasks.flatMap(({k, tables, prompts}) =>
    tables.length ? tables.map(table => make('div', [], {className: 'table', shows: {k, table}}))
                  : halves(prompts.length).map(([from, to]) => listOf({k, from, to}))));
  fill(get('question'), [['', 'click a cell, or choose'], ...tasks.flatMap(({k, prompts, heldout}) =>
    prompts.map((prompt, p) => [`${k} ${p}`, heldout[p] ? `${prompt}  (held out)` : prompt]))]);
  get('question').value = '';
  get('asked').hidden = get('legend').hidden = !tasks.length;
  get('framed').hidden = !tasks.some(({heldout}) => heldout.includes(true));
  if (!tasks.length)
    get('tables').append(make('p', ['This seed has no answers.npz: only its scores are known.']));
}

function halves(count) {
  const half = count > MOST_BARS ? Math.ceil(count / 2) : count;
  return half < count ? [[0, half], [half, count]] : [[0, count]];
}

function listOf(shows) {
  const div = make('div', [], {shows});
  div.style.height = `${50 + 19 * (shows.to - shows.from)}px`;
  return div;
}

function texts(cells, x, y, size, dark, position = 'middle center') {
  const ink = ({probability}) => dark && probability > 0.8 ? '#fff' : '#1a1a1a';
  return {type: 'scatter', mode: 'text', x, y, hoverinfo: 'skip', showlegend: false, textposition: position,
          text: cells.map(({said, correct}) => correct ? plain(said) : `<b>${plain(said)}×</b>`),
          textfont: {size, color: cells.map(ink)}};
}

const titled = text => ({text: plain(text), font: {size: 15}, y: 0.985, yanchor: 'top'});
const scored = cells => `${cells.filter(({correct}) => correct).length} of ${cells.length} right`;

function drawTable(div, {k, table: {operands, sign, cells: prompts}}) {
  const rows = prompts.map((row, a) => row.map((p, b) => p === null ? null : {...answerTo({k, p}), a, b}));
  const cells = rows.flat().filter(Boolean), [a, b] = [cells.map(cell => cell.a), cells.map(cell => cell.b)];
  const size = div.clientWidth < 420 ? 10 : 13;
  const axis = {tickvals: operands.map((_, i) => i), ticktext: operands.map(String), fixedrange: true,
                showgrid: false, zeroline: false, ticks: '', constrain: 'domain'};
  const of = find => rows.map(row => row.map(cell => cell && find(cell)));
  const heatmap = {type: 'heatmap', z: of(cell => cell.probability), zmin: 0, zmax: 1, xgap: 1, ygap: 1,
                   colorscale: [[0, about.shades[0]], [1, about.shades[1]]], showscale: false,
                   customdata: of(cell => cell.p), text: of(cell => lines(cell.texts)), ...TEXT_ONLY};
  const frames = cells.filter(cell => cell.heldout).map(cell => ({
    type: 'rect', x0: cell.b - 0.47, x1: cell.b + 0.47, y0: cell.a - 0.47, y1: cell.a + 0.47,
    line: {color: about.framed, width: 3}}));
  Plotly.react(div, operands.length > MOST_TEXTS ? [heatmap] : [heatmap, texts(cells, b, a, size, true)], {
    ...LAYOUT, margin: {l: 40, r: 6, t: 34, b: 40}, plot_bgcolor: '#c9c9c9', shapes: frames,
    title: titled(`a ${sign} b: ${scored(cells)}`), xaxis: {...axis, title: {text: 'b', standoff: 4}},
    yaxis: {...axis, title: {text: 'a', standoff: 6}, autorange: 'reversed', scaleanchor: 'x'}}, QUIET);
}

function drawList(div, {k, from, to}) {
  const {label, prompts} = askedOf(k), all = prompts.map((_, p) => answerTo({k, p}));
  const cells = all.slice(from, to), y = cells.map(({p}) => p);
  const bars = {type: 'bar', orientation: 'h', x: cells.map(({probability}) => probability), y, customdata: y,
                text: cells.map(cell => lines(cell.texts)), textposition: 'none', ...TEXT_ONLY,
                showlegend: false,
                marker: {color: cells.map(({correct}) => correct ? about.shades[2] : '#c9c9c9')}};
  Plotly.react(div, [bars, texts(cells, cells.map(() => 0.01), y, 12, false, 'middle right')], {
    ...LAYOUT, margin: {l: 110, r: 10, t: 30, b: 20}, hovermode: 'y', bargap: 0.15,
    title: titled(from ? `${label}, continued` : `${label}: ${scored(all)}`),
    xaxis: {range: [0, 1], fixedrange: true, tickvals: [0, 0.5, 1]},
    yaxis: {tickvals: y, ticktext: cells.map(({name}) => plain(name)), tickfont: {size: 12}, fixedrange: true,
            autorange: 'reversed', automargin: true}}, QUIET);
}

function showTime() {
  get('time').value = open.t;
  for (const div of [...get('tables').children].filter(each => each.shows)) {
    const fresh = !div.data;
    (div.shows.table ? drawTable : drawList)(div, div.shows);
    if (fresh) div.on('plotly_click', ({points: [point]}) => ask(div.shows.k, point.customdata));
  }
  const text = timeText();
  get('now').textContent = text;
  get('time').setAttribute('aria-valuetext', text);
  tellQuestion();
}

function timeText() {
  const iteration = iterations()[open.t], {curves} = open.data;
  if (iteration === undefined) return 'no evaluations here';
  const row = (curves.iter || []).indexOf(iteration);
  const known = Object.keys(about.curves).filter(column =>
    !about.curves[column].loss && typeof curves[column]?.[row] === 'number');
  const scores = known.map(column =>
    `${about.curves[column].label.toLowerCase()} ${percent(curves[column][row] / 100)}`);
  return [`iteration ${iteration.toLocaleString('en')}`, ...scores].join(', ');
}

function tellQuestion() {
  get('said').textContent = open.question ? answerTo(open.question).texts.slice(1).join(', ') : '';
}

// What the reader does.

function ask(k, p) {
  open.question = p === undefined ? null : {k, p};
  get('question').value = open.question ? `${k} ${p}` : '';
  tellQuestion();
  return drawCurves();
}

function goTo(t) {
  open.t = Math.min(t, iterations().length - 1);
  if (open.t === iterations().length - 1) play(false);
  showTime();
  return Plotly.relayout('curves', {shapes: [timeLine()]});
}

function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => goTo(open.t + 1), PAUSE) : null;
  get('play').textContent = on ? 'Stop' : 'Play';
}

function listen() {
  get('scores').on('plotly_click', ({points: [point]}) => openSeed(point.customdata));
  get('curves').on('plotly_click', ({points: [point]}) =>
    goTo(iterations().findLastIndex(iteration => iteration <= point.x)));
  get('tasks').onchange = chooseTasks;
  get('seed').onchange = event => openSeed(Number(event.target.value));
  get('score').onchange = get('axis').onchange = get('colour').onchange = drawScores;
  get('question').onchange = ({target: {value}}) => value ? ask(...value.split(' ').map(Number)) : ask();
  get('time').oninput = event => { play(false); goTo(Number(event.target.value)); };
  get('play').onclick = () => {
    if (!playing && open.t === iterations().length - 1) open.t = 0;
    play(!playing);
  };
}

async function start() {
  if (!window.DecompressionStream) throw new Error('the browser is too old, it needs one of 2023 or later');
  about = await unpack('about');
  document.title = get('title').textContent = about.title;
  get('notes').append(...about.notes.map(note => make('li', [note])));
  document.head.append(make('script', [await unpack('plotly', text => text)]));
  get('scale').style.background = `linear-gradient(90deg, ${about.shades[0]}, ${about.shades[1]})`;
  fill(get('tasks'), Object.entries(about.tasks));
  get('tasks-label').hidden = Object.keys(about.tasks).length < 2;
  get('scores-part').hidden = about.seeds.length < 2;
  await chooseTasks();
  listen();
  document.body.dataset.ready = 'yes';
}

start().catch(error => {
  get('title').textContent = `This page cannot be shown: ${error.message}`;
  throw error;
});
