//! What verbs need of models that read text: a tokenizer, sentences, and SST-2.

use anyhow::{Context as _, Result, bail};
use cipherform_client::Tokenizer;
use cipherform_nn::{Matrix, Model};
use std::path::{Path, PathBuf};

/// The file of SST-2's development sentences: what training reads too (training/README.md).
const SST2_FILE: &str = "sst2_dev.tsv";

/// Largest file of sentences that is read.
const FILE_LIMIT: u64 = 64 << 20;

/// Sentences of the demo: written for it.
pub(crate) const SAMPLES: [&str; 3] = [
    "a charming and often moving film about two brothers .",
    "a bleak , dull and pointless mess .",
    "the story is thin , but the actors make it worth watching .",
];

/// The tokenizer of a model in this process.
pub(crate) fn tokenizer(model: &Model) -> Result<Tokenizer> {
    let json = model.tokenizer.as_deref();
    let json = json.with_context(|| {
        format!("the model {} has no tokenizer.json; it takes no text", model.config.name)
    })?;
    Ok(Tokenizer::from_json(&model.config, json)?)
}

/// The lines of a file that hold anything.
pub(crate) fn lines(path: &Path) -> Result<Vec<String>> {
    let name = path.display();
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if size > FILE_LIMIT {
        bail!("{name} has {size} bytes; files of text up to {FILE_LIMIT} are read");
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Sentences of SST-2 with their labels.
pub(crate) struct Sst2 {
    pub(crate) sentences: Vec<Matrix>,
    pub(crate) labels: Vec<usize>,
}

impl Sst2 {
    /// `count` development sentences from row `offset` on, as word pieces.
    pub(crate) fn load(
        model: &Model,
        folder: Option<&PathBuf>,
        offset: usize,
        count: Option<usize>,
    ) -> Result<Self> {
        let folder = folder.with_context(|| {
            format!(
                "SST-2 is not shipped: name the folder of {SST2_FILE} with --data (columns sentence and label, as \
                 training/README.md says)"
            )
        })?;
        let path = folder.join(SST2_FILE);
        let tokenizer = tokenizer(model)?;
        let (mut sentences, mut labels) = (Vec::new(), Vec::new());
        let rows = lines(&path)?;
        for (i, row) in rows.iter().enumerate().skip(1 + offset).take(count.unwrap_or(usize::MAX)) {
            let at = || format!("row {} of {}", i - 1, path.display());
            let (sentence, label) = row.rsplit_once('\t').with_context(at)?;
            let label: usize = label.trim().parse().with_context(at)?;
            if label >= model.config.classes.len() {
                bail!("{}: label {label} of {}", at(), model.config.classes.len());
            }
            sentences.push(tokenizer.encode(sentence).with_context(at)?);
            labels.push(label);
        }
        Ok(Self { sentences, labels })
    }
}
