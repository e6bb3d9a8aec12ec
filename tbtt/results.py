"""results.csv: what an evaluation found, one row each; the best row; what many seeds say together."""

# What does not apply to a run (facts in an arithmetic run) is blank. `add_*` and `sub_*` count all pairs of operands,
# the held-out ones included. `*_acc` are percent. `*_prob` are means over prompts of the exact probability of the right
# answer (teacher-forced, temperature 1), in arithmetic apart for what was seen in training and what was held out.
COLUMNS = ('iter', 'add_correct', 'add_total', 'sub_correct', 'sub_total', 'math_acc', 'heldout_correct',
           'heldout_total', 'facts_correct', 'facts_total', 'facts_acc', 'combined_acc', 'train_loss', 'val_loss',
           'seen_prob', 'heldout_prob', 'facts_prob')
