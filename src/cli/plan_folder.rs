//! The folder of a plan made by `lapo plan --out`, for `worker`, `status` and `commit`.

use clap::Args as ClapArgs;

use crate::dataset::{self, Access, Store};
use crate::error::Result;
use crate::pipeline::partitions::{self, PartitionedPlan};

/// A plan and the workspace that it belongs to.
#[derive(Debug, ClapArgs)]
pub struct PlanFolderArgs {
    /// The plan's folder, or its address in an object store
    #[arg(long, value_name = "FOLDER")]
    plan: String,
}

/// A plan in its folder, and its workspace.
pub struct OpenPlan {
    /// The folder of the plan.
    pub folder: Store,
    /// The plan itself.
    pub plan: PartitionedPlan,
    /// Where results are written.
    pub workspace: Store,
}

impl PlanFolderArgs {
    /// Opens the plan and its workspace, or the given workspace instead.
    pub fn open(&self, workspace: Option<&str>, access: &Access) -> Result<OpenPlan> {
        let folder = Store::open_with(&self.plan, access)?;
        let plan = partitions::read(&folder)?;
        let workspace = Store::open_with(workspace.unwrap_or(&plan.workspace), access)?;
        // A wrong address must fail here, not start an empty workspace.
        dataset::workspace::require(&workspace)?;
        Ok(OpenPlan { folder, plan, workspace })
    }
}
