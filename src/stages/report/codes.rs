//! The use of each code: one chart for each codebook. Also reads the labels once for all sections,
//! into a [`Survey`].

use std::collections::{BTreeMap, HashMap};

use super::numbers::{Numbers, table};
use super::page::{Section, figure, halves, paragraph};
use super::plots::{Axes, BLUE, Bar, bars};
use super::{Inputs, Source};
use crate::dataset::{Actions, Column, Labels, read_labels};
use crate::models::DynamicsConfig;
use crate::stages::Error;

/// A transition.
pub struct Point {
    /// The video's name.
    pub video: String,
    /// The frame number of o\[t\].
    pub frame_index: u32,
    /// The true action, if it is known and discrete.
    pub action: Option<u32>,
    /// `[latent_dim]`, before quantisation.
    pub latent_action: Vec<f32>,
}

/// A combination of codes, and its use.
pub struct Tuple {
    /// `[codebook, position]`.
    pub codes: Vec<u16>,
    /// The number of transitions.
    pub uses: u64,
    /// `[latent_dim]`: the latent action of one of these transitions, before quantisation.
    pub latent_action: Vec<f32>,
    /// The number of these transitions for each true action.
    pub actions: BTreeMap<u32, u64>,
}

/// A summary of all labels.
pub struct Survey {
    /// The number of codes in a codebook.
    pub entries: usize,
    /// The number of codes from each codebook in a latent action.
    positions: usize,
    /// `[codebook][code]`: the number of uses.
    counts: Vec<BTreeMap<u16, u64>>,
    /// The number of transitions.
    pub transitions: u64,
    /// A random sample of transitions, in no order.
    pub points: Vec<Point>,
    /// The most common combinations of codes, the most common first.
    pub tuples: Vec<Tuple>,
}

impl Survey {
    /// Reads the labels, if the report has some.
    pub fn of(inputs: &Inputs) -> Result<Option<Survey>, Error> {
        let Some(source) = inputs.of("labels") else { return Ok(None) };
        let actions = inputs
            .of("actions")
            .map(|source| Actions::read(inputs.ctx.store, &source.action_paths()))
            .transpose()?;
        let store = inputs.ctx.store;
        let config = &inputs.task.config;
        let mut survey = Survey {
            entries: 0,
            positions: 1,
            counts: vec![],
            transitions: 0,
            points: vec![],
            tuples: vec![],
        };
        let mut sample = BTreeMap::new();
        let mut tuples = HashMap::<Vec<u16>, u64>::new();
        for path in source.paths(".parquet") {
            let labels = read_labels(store, &path)?;
            survey.add(&labels);
            for i in 0..labels.len() {
                *tuples.entry(codes(&labels, i).to_vec()).or_default() += 1;
                offer(&mut sample, &labels, i, config.points);
            }
        }
        survey.points = sample.into_values().collect();
        for point in &mut survey.points {
            point.action =
                actions.as_ref().and_then(|a| a.discrete(&point.video, point.frame_index));
        }
        let mut common: Vec<(Vec<u16>, u64)> = tuples.into_iter().collect();
        // Ties in the order of the query in `predictions`.
        common.sort_by_cached_key(|(codes, uses)| (std::cmp::Reverse(*uses), text(codes)));
        common.truncate(config.rollouts);
        let empty =
            |(codes, uses)| Tuple { codes, uses, latent_action: vec![], actions: BTreeMap::new() };
        survey.tuples = common.into_iter().map(empty).collect();
        // A second pass, since the most common combinations are known only now.
        for path in source.paths(".parquet") {
            survey.describe(&read_labels(store, &path)?, actions.as_ref());
        }
        Ok(Some(survey))
    }

    fn add(&mut self, labels: &Labels) {
        let config = labels
            .metadata
            .get("lapo.config")
            .and_then(|text| serde_json::from_str::<DynamicsConfig>(text).ok());
        let vq = config.map(|config| config.vq);
        self.positions = vq.as_ref().map_or(labels.shape.codes, |vq| vq.positions).max(1);
        self.entries = vq.map_or(0, |vq| vq.entries);
        // Codes are in the order codebook, position.
        self.counts.resize(labels.shape.codes / self.positions, BTreeMap::new());
        for (i, code) in labels.latent_code.iter().enumerate() {
            *self.counts[i % labels.shape.codes / self.positions].entry(*code).or_default() += 1;
        }
        self.transitions += labels.len() as u64;
    }

    /// Adds a latent action and the true actions of the most common combinations.
    fn describe(&mut self, labels: &Labels, actions: Option<&Actions>) {
        for i in 0..labels.len() {
            let Some(tuple) = self.tuples.iter_mut().find(|tuple| tuple.codes == codes(labels, i))
            else {
                continue;
            };
            if tuple.latent_action.is_empty() {
                tuple.latent_action = latent_action(labels, i).to_vec();
            }
            if let Some(action) = actions
                .and_then(|actions| actions.discrete(video(labels, i), labels.frame_index[i]))
            {
                *tuple.actions.entry(action).or_default() += 1;
            }
        }
    }
}

fn codes(labels: &Labels, row: usize) -> &[u16] {
    &labels.latent_code[row * labels.shape.codes..][..labels.shape.codes]
}

fn latent_action(labels: &Labels, row: usize) -> &[f32] {
    &labels.latent_action[row * labels.shape.latent_dim..][..labels.shape.latent_dim]
}

fn video(labels: &Labels, row: usize) -> &str {
    &labels.names[labels.video[row] as usize]
}

/// Returns codes as a query shows them.
pub fn text(codes: &[u16]) -> String {
    codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Adds the transition to the sample if its rank is among the lowest. The rank is a hash, so the
/// sample depends on the transitions alone.
fn offer(sample: &mut BTreeMap<(u64, u32), Point>, labels: &Labels, row: usize, most: usize) {
    let name = video(labels, row);
    let frame_index = labels.frame_index[row];
    let digest =
        blake3::Hasher::new().update(name.as_bytes()).update(&frame_index.to_le_bytes()).finalize();
    let rank = (
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes")),
        frame_index,
    );
    // Most transitions are ruled out before their latent action is copied.
    if sample.len() >= most && sample.last_key_value().is_none_or(|(highest, _)| rank > *highest) {
        return;
    }
    let latent_action = latent_action(labels, row).to_vec();
    sample.insert(rank, Point { video: name.to_owned(), frame_index, action: None, latent_action });
    if sample.len() > most {
        sample.pop_last();
    }
}

/// Makes a chart for each codebook.
pub fn section(inputs: &Inputs, survey: Option<&Survey>) -> Result<Option<Section>, Error> {
    let (Some(source), Some(survey)) = (inputs.of("labels"), survey) else { return Ok(None) };
    let figures = (0..survey.counts.len())
        .map(|book| codebook(source, survey, book))
        .collect::<Result<Vec<_>, _>>()?;
    let text = format!(
        "A latent action has {} codes from each of {} codebooks. {} transitions are labelled. In a \
         well-used codebook, all {} codes have bars.",
        survey.positions,
        survey.counts.len(),
        survey.transitions,
        survey.entries
    );
    Ok(Some(Section::new("Codebooks", paragraph(&text) + &halves(&figures))))
}

fn codebook(source: &Source, survey: &Survey, book: usize) -> Result<String, Error> {
    let counts = &survey.counts[book];
    let numbers = Numbers::new(
        sql(&table(source, "labels"), book, survey.positions),
        [
            ("code", Column::U32(counts.keys().map(|code| u32::from(*code)).collect())),
            ("uses", Column::U64(counts.values().copied().collect())),
        ],
    );
    let most = survey.entries.max(counts.keys().last().map_or(0, |code| usize::from(*code) + 1));
    let bar = |code: usize| {
        Bar::new(code.to_string(), counts.get(&(code as u16)).copied().unwrap_or(0) as f64, BLUE)
    };
    let chart = bars(&Axes::new("code", "uses").wide(), &(0..most).map(bar).collect::<Vec<_>>())?;
    Ok(figure(&chart, &format!("Codebook {book}: {} codes in use", counts.len()), &[numbers]))
}

/// Returns a query that counts the codes at a codebook's positions. SQL counts positions from 1.
fn sql(labels: &str, book: usize, positions: usize) -> String {
    let first = book * positions + 1;
    let part = |at: usize| format!("SELECT SPLIT_PART(codes, ' ', {at}) AS code FROM texts");
    let parts: Vec<String> = (first..first + positions).map(part).collect();
    format!(
        "WITH texts AS (SELECT ARRAY_TO_STRING(latent_code, ' ') AS codes FROM {labels}), \
         book AS ({}) SELECT CAST(code AS INT) AS code, count(*) AS uses FROM book \
         GROUP BY code ORDER BY code",
        parts.join(" UNION ALL ")
    )
}
