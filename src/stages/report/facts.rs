//! What ran, and on which data: stages go in, two tables and the true actions' frequencies come out.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;

use serde_json::{Map, Value};

use super::numbers::{Numbers, name, shown, table};
use super::page::{Section, escape, figure, grid};
use super::plots::{Axes, BLUE, Bar, bars};
use super::{Inputs, Source};
use crate::dataset::{ActionRows, Column, FrameRows, read_frame_rows};
use crate::stages::Error;

/// Settings that are shown at once; the others are a click away.
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

/// What ran.
pub fn section(inputs: &Inputs) -> Result<Option<Section>, Error> {
    let mut html = String::from(
        "<div class=\"wide\"><table>\n<tr><th>stage</th><th>kind</th><th>tasks</th><th>counts</th><th>settings</th></tr>\n",
    );
    inputs.task.sources.iter().for_each(|source| html += &row(source));
    html += "</table></div>\n";
    let mut figures = Vec::new();
    if let Some(frames) = inputs.of("frames") {
        figures.push(lengths(inputs, frames)?);
        figures.push(rejects(frames));
    }
    if let Some(actions) = inputs.of("actions") {
        figures.extend(actions_done(inputs, actions)?);
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
    let (settings, first) =
        (flat(&source.settings), |name: &String| FIRST.contains(&name.as_str()));
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

/// Settings by name, as text.
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

/// How long episodes are: read without touching a pixel.
fn lengths(inputs: &Inputs, frames: &Source) -> Result<String, Error> {
    let (mut videos, mut episodes): (HashSet<String>, BTreeMap<(String, u32), u64>) =
        Default::default();
    for path in frames.paths(".arrow") {
        let mut rows = FrameRows::default();
        read_frame_rows(inputs.place.store, &path, &mut rows)?;
        for (video, episode) in rows.video.iter().zip(&rows.episode) {
            let digest = &rows.videos[*video as usize].digest;
            *episodes.entry((digest.clone(), *episode)).or_default() += 1;
        }
        videos.extend(rows.video.iter().map(|video| rows.videos[*video as usize].digest.clone()));
    }
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    episodes.values().for_each(|frames| *counts.entry(*frames).or_default() += 1);
    let name = name(&frames.stage);
    let totals = Numbers::new(
        format!("SELECT count(DISTINCT video_digest) AS videos, count(*) AS frames FROM {name}"),
        [
            ("videos", Column::U64(vec![videos.len() as u64])),
            ("frames", Column::U64(vec![episodes.values().sum()])),
        ],
    );
    let of_episodes = format!(
        "SELECT video_digest, episode, count(*) AS frames FROM {name} GROUP BY video_digest, episode"
    );
    let numbers = Numbers::new(
        format!(
            "SELECT frames, count(*) AS episodes FROM ({of_episodes}) GROUP BY frames ORDER BY frames"
        ),
        [
            ("frames", Column::U64(counts.keys().copied().collect())),
            ("episodes", Column::U64(counts.values().copied().collect())),
        ],
    );
    let chart = bars(&Axes::new("frames of an episode", "episodes"), &of_lengths(&counts))?;
    Ok(figure(&chart, "How long episodes are", &[numbers, totals]))
}

/// Most bars of the chart of lengths; where lengths differ more than that, each bar stands for several, from the one under it on.
const LENGTHS: u64 = 60;

fn of_lengths(counts: &BTreeMap<u64, u64>) -> Vec<Bar> {
    let (least, most) =
        (counts.keys().next().copied().unwrap_or(0), counts.keys().last().copied().unwrap_or(0));
    let wide = (most - least + 1).div_ceil(LENGTHS);
    let bar = |first: u64| {
        let episodes: u64 = counts.range(first..first + wide).map(|(_, count)| count).sum();
        Bar::new(first.to_string(), episodes as f64, BLUE)
    };
    (least..=most).step_by(wide as usize).map(bar).collect()
}

/// What could not be read, by class.
fn rejects(frames: &Source) -> String {
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    frames.rejects.iter().for_each(|reject| *classes.entry(&reject.class).or_default() += 1);
    let numbers = Numbers::new(
        format!(
            "SELECT class, count(*) AS videos FROM rejects WHERE stage = '{}' GROUP BY class ORDER BY class",
            frames.stage
        ),
        [
            ("class", Column::Text(classes.keys().map(ToString::to_string).collect())),
            ("videos", Column::U64(classes.values().copied().collect())),
        ],
    );
    let mut body = String::new();
    classes
        .iter()
        .for_each(|(class, videos)| _ = write!(body, "<p><b>{videos}</b> {}</p>", escape(class)));
    let body = if body.is_empty() { "<p class=\"note\">none</p>".into() } else { body };
    figure(&body, "Videos that could not be read, wholly or in part", &[numbers])
}

/// How often each true action was taken, where actions are discrete.
fn actions_done(inputs: &Inputs, actions: &Source) -> Result<Option<String>, Error> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let rows = ActionRows::read(inputs.place.store, &actions.action_paths())?;
    rows.discrete.iter().for_each(|action| *counts.entry(u64::from(*action)).or_default() += 1);
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
    let all: BTreeSet<u64> = (0..=counts.keys().last().copied().unwrap_or(0)).collect();
    let bar = |action: &u64| {
        Bar::new(action.to_string(), counts.get(action).copied().unwrap_or(0) as f64, BLUE)
    };
    let chart =
        bars(&Axes::new("true action", "frames"), &all.iter().map(bar).collect::<Vec<_>>())?;
    Ok(Some(figure(&chart, "What was truly done", &[numbers])))
}
