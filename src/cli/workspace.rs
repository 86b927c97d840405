//! The workspace of commands that read one: `--workspace`, or the only one under `runs/`.

use std::path::Path;

use crate::error::CommandError as Error;

/// Returns the given workspace, or else the only one under `runs/`.
pub fn find(named: Option<&str>) -> Result<String, Error> {
    if let Some(named) = named {
        return Ok(named.into());
    }
    // Every workspace has a folder `runs` for the records of its runs.
    let is_workspace = |path: &Path| path.join("runs").is_dir();
    let entries = std::fs::read_dir("runs").into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| is_workspace(path))
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::Usage {
            what: "found no workspace under runs/".into(),
            hint: "run a pipeline first (lapo run pipelines/quickstart.yaml), \
                   or give a workspace: --workspace FOLDER"
                .into(),
        }),
        several => Err(Error::Usage {
            what: format!("found {} workspaces under runs/: {}", several.len(), several.join(", ")),
            hint: format!("choose one: --workspace {}", several[0]),
        }),
    }
}
