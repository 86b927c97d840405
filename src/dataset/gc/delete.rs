//! The deleting half of garbage collection: manifests and receipts first, then a fresh look, then data.

use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;

use super::super::error::Result;
use super::super::manifest::{Manifest, at, versions};
use super::super::pins;
use super::super::receipt::parse_versioned;
use super::super::store::Store;
use super::{Garbage, Live, Needed, Survey, Waste};

/// Deletes what a survey found, except what was pinned or committed since. Returns what was deleted.
pub fn delete(store: &Store, survey: &Survey, now: SystemTime) -> Result<Vec<Garbage>> {
    let mut taken: Vec<(&Garbage, Bytes)> = Vec::new();
    for found in survey.garbage.iter().filter(|found| matches!(found.what, Waste::Version | Waste::Receipt)) {
        if let Some(bytes) = store.read(&found.path)? {
            taken.push((found, bytes));
            store.delete(&found.path)?;
        }
    }
    let relied = Relied::read(store, survey, &taken, now)?;
    let mut deleted = Vec::new();
    for (found, bytes) in taken {
        if relied.on(found) {
            store.create(&found.path, &bytes)?;
        } else {
            deleted.push(found.clone());
        }
    }
    for found in survey.garbage.iter().filter(|found| !relied.on(found)) {
        match found.what {
            Waste::Version | Waste::Receipt => continue,
            Waste::Data | Waste::Attempt | Waste::Checkpoint => store.delete_all(&found.path)?,
            Waste::Pack | Waste::Staged | Waste::Pin | Waste::Record => store.delete(&found.path)?,
        }
        deleted.push(found.clone());
    }
    Ok(deleted)
}

/// What pins name and versions hold that came since the survey.
struct Relied {
    runs: HashSet<String>,
    keys: HashSet<(String, String)>,
    versions: HashSet<(String, u64)>,
    packs: HashSet<String>,
}

impl Relied {
    fn read(store: &Store, survey: &Survey, taken: &[(&Garbage, Bytes)], now: SystemTime) -> Result<Self> {
        let pins = pins::all(store)?;
        let live = Live::new(&pins, now);
        let mut relied = Relied {
            runs: live.runs.iter().map(|run| (*run).to_owned()).collect(),
            keys: live.keys.iter().map(|(stage, key)| ((*stage).to_owned(), (*key).to_owned())).collect(),
            versions: live.versions.iter().map(|(stage, version)| ((*stage).to_owned(), *version)).collect(),
            packs: HashSet::new(),
        };
        let stages: HashSet<&String> = survey.garbage.iter().map(|found| &found.stage).collect();
        for stage in stages {
            let seen = survey.newest.get(stage).copied().unwrap_or(0);
            for version in versions(store, stage)?.into_iter().filter(|version| *version > seen) {
                let Some(manifest) = at(store, stage, version)? else { continue };
                relied.add(store, stage, &manifest)?;
            }
        }
        for (found, bytes) in taken.iter().filter(|(found, _)| found.what == Waste::Version) {
            if relied.on(found) {
                relied.add(store, &found.stage, &parse_versioned(&found.path, bytes)?)?;
            }
        }
        Ok(relied)
    }

    fn add(&mut self, store: &Store, stage: &str, manifest: &Manifest) -> Result<()> {
        let needed = Needed::read(store, std::iter::once(manifest))?;
        self.keys.extend(needed.keys.into_iter().map(|key| (stage.to_owned(), key)));
        self.packs.extend(needed.packs);
        Ok(())
    }

    fn on(&self, found: &Garbage) -> bool {
        let name = found.path.rsplit('/').next().unwrap_or_default();
        let holds = |key: &str| self.keys.contains(&(found.stage.clone(), key.to_owned()));
        match found.what {
            Waste::Version => {
                let version: u64 = name.trim_end_matches(".json").parse().unwrap_or(0);
                [version, version.saturating_sub(1)].iter().any(|version| self.versions.contains(&(found.stage.clone(), *version)))
            }
            Waste::Receipt => holds(name.trim_end_matches(".json")),
            Waste::Data | Waste::Attempt | Waste::Checkpoint => holds(found.path.split('/').nth(2).unwrap_or_default()),
            Waste::Pack => self.packs.contains(&found.path) || name.split_once('-').is_some_and(|(run, _)| self.runs.contains(run)),
            Waste::Staged | Waste::Pin | Waste::Record => false,
        }
    }
}
