//! Ray: workers are tasks of a job, submitted through the Jobs REST interface. No Python is needed
//! on this machine.
//!
//! lapo itself must be installed on the nodes: a small driver inside the job starts it there. The
//! id of a job begins with the name of its plan, so a driver of lapo that was killed finds its
//! jobs again.

use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::engine::{Engine, Error, PlanPlace, Share, Work, WorkerCommand, ranges};
use super::settings::RaySettings;
use crate::dataset::{HashMap, HashSet};
use crate::executor::local::fresh_id;

/// The driver inside the job.
const DRIVER: &str = include_str!("ray_driver.py");
/// Greatest number of shares of a job: they are listed in an environment variable. A share that
/// fails is started again when its job has ended.
const SHARES_PER_JOB: usize = 2000;
/// How often the log of a job is read for remarks on its resources.
const MAX_LOG_READS: usize = 10;
/// Longest time for a request.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for a stopped job to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at a stopped job.
const POLL: Duration = Duration::from_millis(200);

/// Runs workers as tasks of Ray jobs.
pub struct Ray {
    settings: RaySettings,
    address: String,
    worker: WorkerCommand,
    max_workers: Option<usize>,
    client: Client,
    notes: Vec<String>,
    /// How often the log of each job was read for remarks.
    log_reads: HashMap<String, usize>,
}

impl Ray {
    /// Creates an engine for the cluster at `address`. `token` is sent with every request.
    ///
    /// # Errors
    /// Fails if a header is not valid.
    pub fn new(
        settings: RaySettings,
        address: &str,
        token: Option<&str>,
        worker: WorkerCommand,
        max_workers: Option<usize>,
    ) -> Result<Self, Error> {
        let mut headers = reqwest::header::HeaderMap::new();
        let bearer = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        for (name, value) in settings.headers.clone().into_iter().chain(bearer) {
            let invalid = |what: &dyn std::fmt::Display| Error::Settings {
                what: format!("the header `{name}` is not valid: {what}"),
                hint: "headers have ASCII letters, digits and punctuation only".into(),
            };
            let key = reqwest::header::HeaderName::try_from(&name).map_err(|e| invalid(&e))?;
            let mut value =
                reqwest::header::HeaderValue::try_from(&value).map_err(|e| invalid(&e))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        let client = Client::builder().timeout(TIMEOUT).default_headers(headers).build();
        let client = client.map_err(|cause| service(&shown(address), cause.to_string(), false))?;
        let address = address.trim_end_matches('/').to_owned();
        let (notes, log_reads) = (vec![], HashMap::default());
        Ok(Ray { settings, address, worker, max_workers, client, notes, log_reads })
    }

    /// Sends a request and returns status and body.
    fn send(&self, path: &str, request: RequestBuilder) -> Result<(u16, String), Error> {
        let url = format!("{}{path}", shown(&self.address));
        let failed =
            |cause: reqwest::Error| service(&url, Causes(&cause.without_url()).to_string(), true);
        let answer = request.send().map_err(failed)?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().map_err(failed)?))
    }

    fn get(&self, path: &str) -> Result<Value, Error> {
        let (status, body) = self.send(path, self.client.get(format!("{}{path}", self.address)))?;
        self.parsed(path, status, &body)
    }

    fn post(&self, path: &str, body: &Value) -> Result<(u16, String), Error> {
        let url = format!("{}{path}", self.address);
        let request = self.client.post(url).header("content-type", "application/json");
        self.send(path, request.body(body.to_string()))
    }

    /// Parses an answer. An answer other than 200 is an error.
    fn parsed(&self, path: &str, status: u16, body: &str) -> Result<Value, Error> {
        let url = format!("{}{path}", shown(&self.address));
        if status != 200 {
            // Client errors are permanent.
            let is_transient = status >= 500 || status == 429;
            return Err(service(&url, refusal(status, body), is_transient));
        }
        serde_json::from_str(body).map_err(|cause| service(&url, cause.to_string(), false))
    }

    /// Returns the plan's jobs that have not ended.
    fn jobs(&self, plan: &PlanPlace) -> Result<Vec<Value>, Error> {
        let jobs = self.get("/api/jobs/")?;
        let prefix = id_prefix(plan);
        let is_ours = |job: &&Value| {
            job["submission_id"].as_str().is_some_and(|id| id.starts_with(&prefix)) && is_open(job)
        };
        Ok(jobs.as_array().into_iter().flatten().filter(is_ours).cloned().collect())
    }

    /// Submits a job for shares of a stage.
    fn submit(
        &self,
        plan: &PlanPlace,
        work: &Work,
        max_workers: Option<usize>,
    ) -> Result<(), Error> {
        let mut runtime_env = self.settings.runtime_env.clone();
        let gpus = u8::from(work.needs.gpu);
        let described = json!({
            "lapo": self.worker.words(plan, work, work.needs.cores),
            "stage": work.stage,
            "count": work.count,
            "shares": ranges(&work.shares),
            "attempt": work.attempt,
            "cores": work.needs.cores,
            "gpus": gpus,
            "memory_mib": work.needs.memory_mib,
            "base": plan.base,
            "max_workers": max_workers,
        });
        let variables = runtime_env.entry("env_vars").or_insert_with(|| json!({}));
        variables["LAPO_WORK"] = json!(described.to_string());
        variables["LAPO_DRIVER"] = json!(DRIVER);
        let body = json!({
            "entrypoint": format!("{} -c \"$LAPO_DRIVER\"", self.settings.python),
            "submission_id": format!("{}{}-{}", id_prefix(plan), work.stage, fresh_id()),
            "runtime_env": runtime_env,
            "metadata": {
                "lapo_stage": work.stage,
                "lapo_count": work.count.to_string(),
                "lapo_shares": ranges(&work.shares),
            },
        });
        let (status, answer) = self.post("/api/jobs/", &body)?;
        self.parsed("/api/jobs/", status, &answer).map(|_| ())
    }

    /// Keeps what a job's driver says of reduced resources.
    fn note_resources(&mut self, id: &str) {
        let reads = self.log_reads.entry(id.to_owned()).or_default();
        *reads += 1;
        if *reads > MAX_LOG_READS {
            return;
        }
        // Remarks are not worth a failure.
        let Ok(answer) = self.get(&format!("/api/jobs/{id}/logs")) else { return };
        let log = answer["logs"].as_str().unwrap_or_default();
        let mut notes = log.lines().filter(|line| line.starts_with("stage ")).peekable();
        if notes.peek().is_some() {
            self.notes.extend(notes.map(str::to_owned));
            self.log_reads.insert(id.to_owned(), MAX_LOG_READS);
        }
    }
}

impl Engine for Ray {
    fn start(&mut self, plan: &PlanPlace, work: &Work) -> Result<(), Error> {
        let jobs = work.shares.chunks(SHARES_PER_JOB);
        let max_workers = self.max_workers.map(|most| (most / jobs.len().max(1)).max(1));
        for shares in jobs {
            self.submit(plan, &Work { shares: shares.to_vec(), ..work.clone() }, max_workers)?;
        }
        Ok(())
    }
    fn alive(&mut self, plan: &PlanPlace) -> Result<HashSet<Share>, Error> {
        let jobs = self.jobs(plan)?;
        for id in jobs.iter().filter_map(|job| job["submission_id"].as_str()) {
            self.note_resources(id);
        }
        Ok(jobs.iter().flat_map(shares).collect())
    }

    fn cancel(&mut self, plan: &PlanPlace) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let jobs = self.jobs(plan)?;
            if jobs.is_empty() {
                return Ok(());
            }
            let seconds = begun.elapsed().as_secs();
            if begun.elapsed() > CANCEL_TIMEOUT {
                return Err(Error::StillRunning { workers: jobs.len(), seconds });
            }
            for id in jobs.iter().filter_map(|job| job["submission_id"].as_str()) {
                self.post(&format!("/api/jobs/{id}/stop"), &json!({}))?;
            }
            std::thread::sleep(POLL);
        }
    }

    fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    fn last_words(&self, plan: &PlanPlace, share: &Share, _: usize) -> Option<String> {
        let jobs = self.get("/api/jobs/").ok()?;
        let prefix = id_prefix(plan);
        let id = |job: &Value| job["submission_id"].as_str().map(str::to_owned);
        let tried = jobs.as_array()?.iter().filter(|job| {
            id(job).is_some_and(|id| id.starts_with(&prefix)) && shares(job).contains(share)
        });
        let last = tried.max_by_key(|job| job["start_time"].as_u64())?;
        let id = id(last)?;
        let logs = self.get(&format!("/api/jobs/{id}/logs")).unwrap_or_default();
        let of_share = format!("share {share} ended with ");
        let text = [&logs["logs"], &last["message"]].map(|text| text.as_str().unwrap_or_default());
        let line = text[0]
            .lines()
            .find(|line| line.starts_with(&of_share))
            .or_else(|| text[1].lines().rev().find(|line| !line.trim().is_empty()));
        Some(format!("the log of job {id} says: {}", line.unwrap_or_default()))
    }
}

/// Returns the beginning of the ids of a plan's jobs.
fn id_prefix(plan: &PlanPlace) -> String {
    format!("lapo-{}-", plan.name)
}

/// Returns whether a job has not ended.
fn is_open(job: &Value) -> bool {
    !["STOPPED", "SUCCEEDED", "FAILED"].contains(&job["status"].as_str().unwrap_or_default())
}

/// Returns the shares of a job from its metadata.
fn shares(job: &Value) -> Vec<Share> {
    let metadata = &job["metadata"];
    let text = |name: &str| metadata[name].as_str();
    let (Some(stage), Some(count), Some(shares)) = (
        text("lapo_stage"),
        text("lapo_count").and_then(|count| count.parse().ok()),
        text("lapo_shares"),
    ) else {
        return vec![];
    };
    let numbers = shares.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    let share = |index| Share { stage: Some(stage.to_owned()), index, count };
    numbers.flatten().map(share).collect()
}

/// Returns the reason in an answer other than 200, in a few lines.
fn refusal(status: u16, body: &str) -> String {
    let lines: Vec<&str> = body.lines().filter(|line| !line.trim().is_empty()).collect();
    // The last line of a Python traceback is its message.
    format!("status {status}: {}", lines.last().unwrap_or(&"no message"))
}

fn service(url: &str, reason: String, is_transient: bool) -> Error {
    Error::Service {
        url: url.to_owned(),
        reason,
        is_transient,
        hint: "set `address` of `ray` in the executor's settings to the address of the dashboard, \
               and `RAY_AUTH_TOKEN` if it wants a token"
            .into(),
    }
}

/// Returns an address without its user and password.
fn shown(address: &str) -> String {
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => address.to_owned(),
    }
}

/// Prints an error and its causes.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(inner) = cause {
            write!(f, ": {inner}")?;
            cause = inner.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_lists_its_shares() {
        let metadata = json!({ "lapo_stage": "frames", "lapo_count": "9", "lapo_shares": "0-1,7" });
        let listed = shares(&json!({ "metadata": metadata }));
        let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["frames:0/9", "frames:1/9", "frames:7/9"]);
        assert!(shares(&json!({ "metadata": null })).is_empty());
    }
}
