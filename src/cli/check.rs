//! `lapo check`: checks a pipeline without running it.

use super::pipeline_args::PipelineArgs;
use super::stdout::print;
use crate::dataset::Access;
use crate::error::Result;

/// Prints one line with the order of the stages. A faulty pipeline is an error.
pub fn run(args: &PipelineArgs, access: &Access) -> Result<()> {
    let (checked, _) = args.open(access)?;
    // `order` holds indices of stages, inputs first.
    let names: Vec<&str> =
        checked.order.iter().map(|at| checked.spec.stages[*at].0.as_str()).collect();
    print(&format!("{}: valid: {}\n", args.pipeline, names.join(" -> ")))
}
