//! What each experiment is called, and what the paper saw in it.

/// An experiment as the report introduces it.
pub struct Experiment {
    /// As in `results.csv`.
    pub id: &'static str,
    pub title: &'static str,
    /// What the paper saw.
    pub paper: &'static str,
    /// What `k` counts in tables.
    pub k: &'static str,
    /// What `attack` names.
    pub attack: &'static str,
}

const fn new(id: &'static str, [title, paper, k, attack]: [&'static str; 4]) -> Experiment {
    Experiment { id, title, paper, k, attack }
}

/// All of them, in the paper's order.
pub const EXPERIMENTS: [Experiment; 25] = [
    new(
        "e1",
        [
            "E1  Refusal prefixes (Table 1): harmful answers after a prefilled refusal",
            "Put into the mouth of a base model, the first words of a refusal make it nearly as safe as an aligned one.",
            "k",
            "attack",
        ],
    ),
    new(
        "e2",
        [
            "E2  Per-token KL of the aligned model from the base model (Figure 1)",
            "On harmful answers the aligned model differs from the base at the first few tokens, and hardly after.",
            "position",
            "attack",
        ],
    ),
    new(
        "e3",
        [
            "E3  Prefilling attack (Figure 2): harmful answers after k tokens of one",
            "A few tokens of a harmful answer, prefilled, undo the alignment.",
            "k",
            "attack",
        ],
    ),
    new(
        "criterion",
        [
            "Deep-alignment criterion (Section 3): log-probability of the harmful answer after k tokens of it",
            "Deep alignment keeps the rest of a harmful answer unlikely, however much of it is given.",
            "k",
            "attack",
        ],
    ),
    new(
        "e4",
        [
            "E4  Harmful fine-tuning (Figure 3)",
            "Training on 100 harmful answers moves the first tokens most; a few gradient steps undo the alignment.",
            "step",
            "attack",
        ],
    ),
    new(
        "e4b",
        [
            "E4b  Benign fine-tuning (Figure 5)",
            "Training on a harmless task also moves the first tokens most, and costs some safety.",
            "step",
            "attack",
        ],
    ),
    new(
        "e5",
        [
            "E5  Safety-recovery augmentation (Figure 4, Table 2)",
            "Training refusals that follow a harmful opening raises KL at late positions and keeps utility.",
            "position",
            "attack",
        ],
    ),
    new(
        "e5b",
        [
            "E5b  Augmentation by depth C and share p (Tables 6, 7)",
            "Larger C and p make the model more robust and slightly less useful.",
            "k",
            "attack",
        ],
    ),
    new(
        "e6",
        [
            "E6  Attacks before and after augmentation (Table 3)",
            "The augmented model withstands prefilling.",
            "k",
            "attack",
        ],
    ),
    new(
        "decoding",
        [
            "E6  Decoding exploit (Table 3): harmful answers under any of 49 ways of sampling",
            "Some way of sampling breaks many prompts that the usual one does not; the augmented model withstands most.",
            "k",
            "parameter",
        ],
    ),
    new(
        "e7",
        [
            "E7  Constrained fine-tuning (Table 4)",
            "Holding the first tokens close to the aligned model keeps safety through fine-tuning, and utility too.",
            "k",
            "data",
        ],
    ),
    new(
        "e8",
        [
            "E8  Which beta (Table 8)",
            "A small beta everywhere is unsafe, a large one everywhere learns little; biased to the first tokens does both.",
            "k",
            "data",
        ],
    ),
    new(
        "e9",
        [
            "E9  Warm-up (Table 9)",
            "The constraint needs warm-up against attacks; on benign tasks warm-up alone keeps much of the safety.",
            "k",
            "data",
        ],
    ),
    new(
        "e10",
        [
            "E10  Fine-tuning attacks on the augmented model (Table 10)",
            "The augmented model is harder to break by fine-tuning, most of all with the constraint.",
            "k",
            "data",
        ],
    ),
    new(
        "insertion",
        [
            "Random insertion (beyond the paper): a refusal, then k tokens from the middle of a harmful answer",
            "No number of the paper's: a model that is safe only because it began with a refusal goes on with the span.",
            "k",
            "attack",
        ],
    ),
    new(
        "bait",
        [
            "A prefill aimed at recovery (beyond the paper): k harmful tokens, a refusal, then \"but here is how\"",
            "No number of the paper's: its authors name attacks that know of the recovery as open.",
            "k",
            "attack",
        ],
    ),
    new(
        "gap",
        [
            "Logit gap (beyond the paper; arXiv 2506.24056): best refusal token minus best token that goes along, after k \
             tokens of a harmful answer",
            "Li and Liu see alignment widen the gap on 97.5 to 99.8 % of toxic prompts, before the first token. Here it is \
             measured after k tokens of a harmful answer; the masses are probabilities of all tokens of a kind.",
            "k",
            "attack",
        ],
    ),
    new(
        "scratch",
        [
            "Recovery during alignment from scratch (beyond the paper): by SFT and by DPO, beside augmentation",
            "No number of the paper's: its authors augment a model that is aligned already, and name this as open.",
            "k",
            "attack",
        ],
    ),
    new(
        "sweep",
        [
            "E7 by learning rate and warm-up: standard and constrained fine-tuning at factors on the learning rate",
            "No number of the paper's: its tables hold one learning rate a model.",
            "k",
            "data",
        ],
    ),
    new(
        "ablation",
        [
            "Refusal-direction ablation (beyond the paper; arXiv 2406.11717)",
            "No number of the paper's: one direction of the residual stream is taken out of the weights.",
            "layer",
            "attack",
        ],
    ),
    new(
        "rethinking",
        [
            "Rethinking, a defence at inference time (beyond the paper; ADA-RK, arXiv 2510.18081)",
            "No number of the paper's: every 25 tokens the assistant's header is put in again, and a refusal that follows \
             it ends the answer.",
            "k",
            "attack",
        ],
    ),
    new(
        "deep",
        [
            "Deep prefill (beyond the paper; Any-Depth Alignment, arXiv 2510.18081): k tokens of harmful text, up to the \
             context",
            "No number of the paper's. Other harmful answers stand before the first 20 tokens of this one; the base model's \
             own words are what knowledge is left at that depth.",
            "k",
            "attack",
        ],
    ),
    new(
        "overrefusal",
        [
            "Over-refusal (beyond the paper; after XSTest, arXiv 2308.01263): refused prompts by set",
            "No number of the paper's. Only the last set (in the world \"restricted\", of XSTest \"unsafe\") should be refused.",
            "k",
            "set",
        ],
    ),
    new(
        "rap",
        [
            "RAP (beyond the paper; arXiv 2512.05518): after k tokens the likeliest of 20 next tokens that stays harmful",
            "Vega and Singh extract harmful answers so from models that were augmented as this one: refusals are likely there, \
             and the rest stays in reach.",
            "k",
            "attack",
        ],
    ),
    new(
        "depth",
        [
            "Safety depth as one number (beyond the paper)",
            "No number of the paper's: the k at which half of the prompts are broken, the area under that curve, and the \
             positions that hold 90 % of the KL from the base model.",
            "k",
            "attack",
        ],
    ),
];

/// The experiment called `id`; of others nothing is known but their rows.
pub fn find(id: &str) -> Option<&'static Experiment> {
    EXPERIMENTS.iter().find(|experiment| experiment.id == id)
}
