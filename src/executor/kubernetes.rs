//! Kubernetes: an Indexed Job for each stage of a plan. Each pod finds its share by
//! `JOB_COMPLETION_INDEX`.

use serde_json::{Map, Value, json};

use super::engine::{PlanPlace, Work, WorkerCommand};
use super::settings::KubernetesSettings;

/// Greatest parallelism and number of failed indices of a job with more than 100,000 completions.
const MOST: usize = 10_000;
/// Longest time for a pod to write a checkpoint when it is evicted.
const GRACE_SECS: u32 = 120;

/// Returns the manifest of a stage's Indexed Job.
#[must_use]
pub fn job(
    plan: &PlanPlace,
    work: &Work,
    settings: &KubernetesSettings,
    worker: &WorkerCommand,
    limits: JobLimits,
) -> Value {
    let KubernetesSettings { image, namespace, gpu, pod, container } = settings;
    let mut resources = json!({ "cpu": work.needs.cores.to_string() });
    resources["memory"] = json!(format!("{}Mi", work.needs.memory_mib));
    let mut bounds = json!({ "memory": resources["memory"] });
    if work.needs.gpu {
        // A resource of a device is the same in both.
        resources[gpu] = json!("1");
        bounds[gpu] = json!("1");
    }
    let mut command = worker.words(plan, work, work.needs.cores);
    command.extend(["--shares".into(), format!("{}:{}", work.stage, work.count)]);
    let of_the_container = json!({
        "name": "lapo",
        "image": image.clone().unwrap_or(format!("lapo:{}", env!("CARGO_PKG_VERSION"))),
        "command": command,
        "resources": { "requests": resources, "limits": bounds },
    });
    let of_the_pod = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECS,
        "containers": [with(of_the_container, container)],
    });
    let mut metadata = json!({
        "name": name(plan, &work.stage),
        "labels": { "app.kubernetes.io/name": "lapo", "lapo/stage": label(&work.stage) },
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completions": work.count,
            "parallelism": limits.max_workers.unwrap_or(work.count).min(work.count).min(MOST),
            "completionMode": "Indexed",
            "backoffLimitPerIndex": limits.restarts,
            "maxFailedIndexes": work.count.min(MOST),
            // 75: stopped after a checkpoint, or a fault that may pass. A node that goes away
            // counts as no failure, either.
            "podFailurePolicy": { "rules": [
                { "action": "Ignore", "onPodConditions": [
                    { "type": "DisruptionTarget", "status": "True" },
                ] },
                { "action": "Ignore", "onExitCodes": {
                    "containerName": "lapo", "operator": "In", "values": [75],
                } },
            ] },
            "template": { "spec": with(of_the_pod, pod) },
        },
    })
}

/// Limits of a job.
#[derive(Clone, Copy, Debug)]
pub struct JobLimits {
    /// Greatest number of concurrent pods.
    pub max_workers: Option<usize>,
    /// How often a pod is started again.
    pub restarts: usize,
}

/// Adds the user's fields; where both have a field, the user's counts.
fn with(mut fields: Value, more: &Map<String, Value>) -> Value {
    if let Some(fields) = fields.as_object_mut() {
        fields.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    fields
}

/// Returns the name of a job: lower-case letters, digits and hyphens, at most 52 of them, so that
/// the names of its pods fit into 63.
fn name(plan: &PlanPlace, stage: &str) -> String {
    let text = format!("lapo-{}-{stage}", plan.name).to_ascii_lowercase().replace('_', "-");
    // Plans and stages may differ only in what is changed or cut off here.
    let digest = blake3::hash(format!("{}/{stage}", plan.name).as_bytes()).to_hex();
    let end = text.len().min(45);
    format!("{}-{}", text[..end].trim_end_matches('-'), &digest[..6])
}

/// Returns the value of a label: at most 63 characters, the first and last alphanumeric.
fn label(stage: &str) -> String {
    let end = stage.len().min(63);
    stage[..end].trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}
