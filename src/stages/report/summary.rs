//! The stages of the run and their data: a table of stages, episode lengths, rejects and true
//! actions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use super::html::escape;
use super::numbers::{Numbers, name, shown, table};
use super::page::{Section, figure, grid};
use super::plots::{Axes, BLUE, Bar, bars};
use super::{Inputs, Source};
use crate::dataset::{ActionRows, Column, FrameRows, read_frame_rows};
use crate::stages::Error;

/// The settings to show at once. All others are folded.
const FIRST: [&str; 22] = [
    "game",
    "player",
    "noise",
    "size",
    "levels",
    "preset",
    "steps",
    "batch",
    "learning_rate",
    "idm_scale",
    "fdm_base",
    "frame_size",
    "context",
    "vq.codebooks",
    "vq.positions",
    "vq.entries",
    "scale",
    "transitions",
    "draws",
    "hidden",
    "episodes",
    "seed",
];

/// Makes the section with stages and data.
pub fn section(inputs: &Inputs) -> Result<Option<Section>, Error> {
    let mut html = String::from(
        "<div class=\"wide\"><table>\n<tr><th>stage</th><th>kind</th><th>tasks</th><th>counts</th>\
         <th>settings</th></tr>\n",
    );
    for source in &inputs.task.sources {
        html += &row(source);
    }
    html += "</table></div>\n";
    let mut figures = Vec::new();
    if let Some(frames) = inputs.of("frames") {
        figures.push(lengths(inputs, frames)?);
        figures.push(rejects(frames));
    }
    if let Some(actions) = inputs.of("actions") {
        figures.extend(true_actions(inputs, actions)?);
    }
    if !figures.is_empty() {
        html += "<h3>Data</h3>\n";
        html += &grid(&figures);
    }
    Ok(Some(Section::new("What ran", html)))
}

fn row(source: &Source) -> String {
    let counts = source
        .stats
        .iter()
        .map(|(name, value)| format!("{} <code>{}</code>", escape(name), shown(*value)));
    let settings = flat(&source.settings);
    let first = |name: &String| FIRST.contains(&name.as_str());
    let line = |(name, value): (&String, &String)| {
        format!("{} <code>{}</code>", escape(name), escape(value))
    };
    let shown: Vec<String> = settings.iter().filter(|(name, _)| first(name)).map(line).collect();
    let others: Vec<String> = settings.iter().filter(|(name, _)| !first(name)).map(line).collect();
    let (stage, kind, tasks) = (escape(&source.stage), escape(&source.kind), source.tasks.len());
    format!(
        "<tr><td><b>{stage}</b></td><td>{kind}</td><td>{tasks}</td><td>{}</td>\
         <td>{}<details><summary>all settings</summary>{}</details></td></tr>\n",
        counts.collect::<Vec<_>>().join(", "),
        shown.join(", "),
        others.join(", ")
    )
}

/// Returns the settings by name, as text.
fn flat(settings: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in
        settings.iter().filter(|(name, value)| *name != "stage" && !value.is_null())
    {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        all.insert(name.clone(), text);
    }
    all
}

/// Draws the lengths of episodes, without reading pixels.
fn lengths(inputs: &Inputs, frames: &Source) -> Result<String, Error> {
    let mut videos = HashSet::<String>::new();
    let mut episodes = BTreeMap::<(String, u32), u64>::new();
    for path in frames.paths(".arrow") {
        let mut rows = FrameRows::default();
        read_frame_rows(inputs.ctx.store, &path, &mut rows)?;
        for (video, episode) in rows.video.iter().zip(&rows.episode) {
            let digest = &rows.videos[*video as usize].digest;
            *episodes.entry((digest.clone(), *episode)).or_default() += 1;
        }
        videos.extend(rows.video.iter().map(|video| rows.videos[*video as usize].digest.clone()));
    }
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for frames in episodes.values() {
        *counts.entry(*frames).or_default() += 1;
    }
    let name = name(&frames.stage);
    let totals = Numbers::new(
        format!("SELECT count(DISTINCT video_digest) AS videos, count(*) AS frames FROM {name}"),
        [
            ("videos", Column::U64(vec![videos.len() as u64])),
            ("frames", Column::U64(vec![episodes.values().sum()])),
        ],
    );
    let of_episodes = format!(
        "SELECT video_digest, episode, count(*) AS frames FROM {name} \
         GROUP BY video_digest, episode"
    );
    let numbers = Numbers::new(
        format!(
            "SELECT frames, count(*) AS episodes FROM ({of_episodes}) \
             GROUP BY frames ORDER BY frames"
        ),
        [
            ("frames", Column::U64(counts.keys().copied().collect())),
            ("episodes", Column::U64(counts.values().copied().collect())),
        ],
    );
    let chart = bars(&Axes::new("frames of an episode", "episodes"), &of_lengths(&counts))?;
    Ok(figure(&chart, "Episode lengths", &[numbers, totals]))
}

/// The largest number of bars in the chart of lengths. With more lengths, each bar stands for
/// several, starting at its label.
const LENGTHS: u64 = 60;

fn of_lengths(counts: &BTreeMap<u64, u64>) -> Vec<Bar> {
    let least = counts.keys().next().copied().unwrap_or(0);
    let most = counts.keys().last().copied().unwrap_or(0);
    let width = (most - least + 1).div_ceil(LENGTHS);
    let bar = |first: u64| {
        let episodes: u64 = counts.range(first..first + width).map(|(_, count)| count).sum();
        Bar::new(first.to_string(), episodes as f64, BLUE)
    };
    (least..=most).step_by(width as usize).map(bar).collect()
}

/// Lists the rejected videos by class.
fn rejects(frames: &Source) -> String {
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for reject in &frames.rejects {
        *classes.entry(&reject.class).or_default() += 1;
    }
    let numbers = Numbers::new(
        format!(
            "SELECT class, count(*) AS videos FROM rejects WHERE stage = '{}' \
             GROUP BY class ORDER BY class",
            frames.stage
        ),
        [
            ("class", Column::Text(classes.keys().map(ToString::to_string).collect())),
            ("videos", Column::U64(classes.values().copied().collect())),
        ],
    );
    let mut body = String::new();
    for (class, videos) in &classes {
        _ = write!(body, "<p><b>{videos}</b> {}</p>", escape(class));
    }
    let body = if body.is_empty() { "<p class=\"note\">none</p>".into() } else { body };
    figure(&body, "Videos rejected, wholly or in part", &[numbers])
}

/// Draws the frequencies of true actions, if they are discrete.
fn true_actions(inputs: &Inputs, actions: &Source) -> Result<Option<String>, Error> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let rows = ActionRows::read(inputs.ctx.store, &actions.action_paths())?;
    for action in &rows.discrete {
        *counts.entry(u64::from(*action)).or_default() += 1;
    }
    if counts.is_empty() {
        return Ok(None);
    }
    let numbers = Numbers::new(
        format!(
            "SELECT action, count(*) AS frames FROM {} GROUP BY action ORDER BY action",
            table(actions, "actions")
        ),
        [
            ("action", Column::U64(counts.keys().copied().collect())),
            ("frames", Column::U64(counts.values().copied().collect())),
        ],
    );
    // Actions that were never taken have a bar of height 0.
    let all: BTreeSet<u64> = (0..=counts.keys().last().copied().unwrap_or(0)).collect();
    let bar = |action: &u64| {
        Bar::new(action.to_string(), counts.get(action).copied().unwrap_or(0) as f64, BLUE)
    };
    let chart =
        bars(&Axes::new("true action", "frames"), &all.iter().map(bar).collect::<Vec<_>>())?;
    Ok(Some(figure(&chart, "True actions", &[numbers])))
}
