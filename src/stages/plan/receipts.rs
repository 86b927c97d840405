//! The finished tasks of a stage, and why another task is new. Start at [`ReceiptIndex`].

use std::cell::OnceCell;
use std::sync::Arc;

use serde_json::Value;

use super::Reason;
use super::key::{Fields, canonical, settings, settings_of_receipt, shared_settings};
use crate::dataset::{HashMap, HashSet, Receipt};
use crate::stages::{StageKind, kind_of};

/// The receipts of a stage by key: whether a task is done and, if not, why.
#[derive(Default)]
pub struct ReceiptIndex<'a> {
    by_key: HashMap<&'a str, &'a Arc<Receipt>>,
    /// The distinct settings of the receipts, in their order.
    settings: Vec<Fields>,
    receipts: &'a [Arc<Receipt>],
    /// The inputs of all receipts: field and hash of the value. They name up to a million videos,
    /// so they are hashed on first use.
    inputs: OnceCell<HashSet<(&'static str, blake3::Hash)>>,
}

impl<'a> ReceiptIndex<'a> {
    /// Creates the index of these receipts.
    pub fn new(receipts: &'a [Arc<Receipt>]) -> Self {
        let by_key = receipts.iter().map(|receipt| (receipt.key.as_str(), receipt)).collect();
        let mut known =
            ReceiptIndex { by_key, settings: Vec::new(), receipts, inputs: OnceCell::new() };
        let mut seen = HashSet::default();
        let mut shared = HashSet::default();
        for receipt in receipts {
            // Receipts share their settings in memory: each distinct set is examined once.
            if shared_settings(receipt).is_some_and(|fields| !shared.insert(Arc::as_ptr(fields))) {
                continue;
            }
            let settings = settings_of_receipt(receipt);
            if seen.insert(canonical(&settings)) {
                known.settings.push(settings);
            }
        }
        known
    }

    /// Returns the receipt of a task, if it is done.
    pub fn get(&self, key: &str) -> Option<&'a Arc<Receipt>> {
        self.by_key.get(key).copied()
    }

    /// Returns why a task of this kind is new: the first setting that differs from the most similar
    /// recorded settings, or else the first input without a receipt.
    pub fn why(&self, kind: &'static StageKind, fields: &Fields) -> Reason {
        let settings = settings(kind, fields);
        let is_same =
            |other: &Fields, (name, value): (&String, &Value)| other.get(name) == Some(value);
        let alike =
            |other: &&Fields| settings.iter().filter(|setting| is_same(other, *setting)).count();
        // Of equally similar settings the first receipt wins, since `max_by_key` keeps the last.
        let Some(nearest) = self.settings.iter().rev().max_by_key(alike) else {
            return Reason::NeverDone;
        };
        // A changed setting explains more than a new input.
        if let Some((name, new)) = settings.iter().find(|setting| !is_same(nearest, *setting)) {
            let old = nearest.get(name).map(ToString::to_string);
            return Reason::Setting { name: name.clone(), old, new: new.to_string() };
        }
        let known =
            self.inputs.get_or_init(|| self.receipts.iter().flat_map(|r| inputs_of(r)).collect());
        let new = inputs(kind, |name| fields.get(name)).find(|input| !known.contains(input));
        new.map_or(Reason::NeverDoneWithTheseInputs, |(name, _)| Reason::new_input(name))
    }
}

/// Returns the inputs of a receipt.
fn inputs_of(receipt: &Receipt) -> impl Iterator<Item = (&'static str, blake3::Hash)> {
    let kind = kind_of(&receipt.stage);
    kind.into_iter().flat_map(|kind| inputs(kind, |name| receipt.fields.get(name)))
}

/// Returns the inputs among fields: name and hash of the value.
fn inputs<'f>(
    kind: &'static StageKind,
    field: impl Fn(&str) -> Option<&'f Value>,
) -> impl Iterator<Item = (&'static str, blake3::Hash)> {
    // Hashes take less memory than lists of a million names.
    let hash = |value: &Value| blake3::hash(value.to_string().as_bytes());
    kind.key_inputs.iter().filter_map(move |name| Some((*name, hash(field(name)?))))
}
