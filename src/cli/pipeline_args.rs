//! Arguments that choose a pipeline and how it is planned, for `run`, `check` and `plan`.

use clap::Args as ClapArgs;

use crate::dataset::{Access, Store};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::pipeline::check::{Checked, workspace_fault};
use crate::pipeline::load;
use crate::pipeline::plan::PlanOptions;
use crate::pipeline::spec::StageSpec;

/// A pipeline, its variables and its workspace.
#[derive(Debug, ClapArgs)]
pub struct PipelineArgs {
    /// The pipeline's YAML file
    pub pipeline: String,
    /// Set a variable of `vars:`; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Folder or address to use as the workspace [default: `workspace:` of the pipeline]
    #[arg(long)]
    pub workspace: Option<String>,
}

impl PipelineArgs {
    /// Loads and checks the pipeline, and opens its workspace.
    pub fn open(&self, access: &Access) -> Result<(Checked, Store)> {
        let set =
            self.set.iter().map(|pair| parse_assignment(pair)).collect::<Result<Vec<_>, _>>()?;
        let mut checked = load(&self.pipeline, &set, access)?;
        // `load` has checked only the workspace of the YAML.
        if let Some(workspace) = &self.workspace {
            if let Some((fault, hint)) = workspace_fault(workspace) {
                let what = format!("--workspace {workspace}: {fault}");
                return Err(Error::Usage { what, hint }.into());
            }
            checked.spec.workspace.clone_from(workspace);
        }
        let store = Store::open_with(&checked.spec.workspace, access)?;
        Ok((checked, store))
    }
}

/// Splits `NAME=VALUE`.
fn parse_assignment(pair: &str) -> Result<(String, String), Error> {
    pair.split_once('=').map(|(name, value)| (name.to_string(), value.to_string())).ok_or_else(
        || Error::Usage {
            what: format!("--set {pair}: expected NAME=VALUE"),
            hint: "for example --set game=heist".into(),
        },
    )
}

/// Exceptions to the usual planning, for one run.
#[derive(Debug, ClapArgs)]
pub struct PlanningArgs {
    /// Retrain the model of this `train_dynamics` or `train_policy` stage, whatever its `refresh`
    /// setting; repeatable
    #[arg(long, value_name = "STAGE")]
    pub refresh: Vec<String>,
    /// Decode rejected videos again, of one reject class or of all; for use after a change of
    /// `limits` or of libav
    #[arg(
        long,
        value_name = "CLASS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    pub retry_rejected: Option<Vec<String>>,
    /// Share of the dataset's videos that may disappear, from 0 to 1
    /// [default: `max_dropped` of the stage]
    #[arg(long, value_name = "SHARE")]
    pub max_dropped: Option<f64>,
    /// Write into another pipeline's workspace; its datasets become this pipeline's
    #[arg(long)]
    pub take_over: bool,
}

impl PlanningArgs {
    /// Returns the options to plan with. Fails if `--refresh` names a stage that keeps no model.
    ///
    /// Only trained stages keep their model while their input grows. All other stages follow
    /// their inputs anyway, so that refreshing one has no effect.
    pub fn options(&self, checked: &Checked, checkpoint_secs: u64) -> Result<PlanOptions> {
        let keeps_model = |(_, spec): &&(String, StageSpec)| spec.kind().keeps_model;
        let refreshable: Vec<&str> =
            checked.spec.stages.iter().filter(keeps_model).map(|(name, _)| name.as_str()).collect();
        if let Some(name) = self.refresh.iter().find(|name| !refreshable.contains(&name.as_str())) {
            return Err(cannot_refresh(name, &refreshable).into());
        }
        // `--retry-rejected` without a class is an empty string, which means all classes.
        let retry_rejected = self
            .retry_rejected
            .as_ref()
            .map(|classes| classes.iter().filter(|class| !class.is_empty()).cloned().collect());
        Ok(PlanOptions {
            refresh: self.refresh.clone(),
            checkpoint_secs,
            retry_rejected,
            max_dropped: self.max_dropped,
            take_over: self.take_over,
            ..PlanOptions::default()
        })
    }
}

fn cannot_refresh(name: &str, refreshable: &[&str]) -> Error {
    Error::Usage {
        what: format!("--refresh {name}: expected a stage that keeps its model as its input grows"),
        hint: match refreshable {
            [] => "this pipeline has none; other stages run again when their inputs change".into(),
            names => format!(
                "choose one of {}; other stages run again when their inputs change",
                names.join(", ")
            ),
        },
    }
}
