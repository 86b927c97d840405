//! Learning curves of agents in the game, with the published returns as reference lines.

use std::collections::BTreeMap;

use super::html::escape;
use super::numbers::{Numbers, shown, table};
use super::page::{Section, figure, grid, legend, paragraph};
use super::plots::{Axes, Line, lines};
use super::training_curves::measured;
use super::{Inputs, Source};
use crate::dataset::{Column, Table, read_table};
use crate::envs::{Game, PublishedReturns};
use crate::stages::Error;

/// The number of points of a curve.
const POINTS: u64 = 20;
/// The charts below the returns. They show whether learning is healthy.
const CHARTS: [(&str, &str); 4] = [
    ("Entropy", "entropy"),
    ("Approximate KL of an update", "approx_kl"),
    ("Explained variance", "explained_variance"),
    ("Value loss", "value_loss"),
];

/// Makes the section with learning curves.
pub fn section(inputs: &Inputs) -> Result<Option<Section>, Error> {
    let sources: Vec<&Source> = inputs.all("agents");
    let mut curves = Vec::new();
    let mut numbers = Vec::new();
    let mut verdicts = String::new();
    let mut below = CHARTS.map(|_| Vec::new());
    for source in &sources {
        let Some(path) = source.paths("metrics.parquet").pop() else { continue };
        let metrics = read_table(inputs.ctx.store, &path)?;
        let (rows, line) = returns(source, &metrics);
        numbers.push(rows);
        curves.push(line);
        for ((_, column), lines) in CHARTS.iter().zip(&mut below) {
            lines.extend(
                measured(source, &metrics, column)
                    .map(|(points, rows)| (Line::new(&source.stage, points), rows)),
            );
        }
        if let Some(verdict) = source.paths("verdict.json").pop() {
            let sentence = inputs.json(&verdict)?["sentence"]
                .as_str()
                .map(|sentence| paragraph(&format!("{}: {sentence}.", source.stage)));
            verdicts += &sentence.unwrap_or_default();
        }
    }
    if curves.is_empty() {
        return Ok(None);
    }
    let own = curves.len();
    let game = sources.iter().find_map(|source| {
        serde_json::from_value::<Game>(source.settings.get("game")?.clone()).ok()
    });
    let last = curves.iter().flat_map(Line::last).fold(0.0, f64::max);
    curves.extend(
        game.map(|game| game.returns()).into_iter().flat_map(|returns| published(returns, last)),
    );
    let chart = lines(&Axes::new("environment steps", "mean return").wide(), &curves)?;
    let caption = "Mean return of finished episodes, with exploration".to_owned();
    let note = game.map_or(String::new(), |game| published_note(game, game.returns()));
    let mut html =
        verdicts + &figure(&(chart + &legend(&Line::legend(&curves)) + &note), &caption, &numbers);
    let mut figures = Vec::new();
    for ((heading, _), lines_and_numbers) in CHARTS.iter().zip(below) {
        let (drawn, numbers): (Vec<Line>, Vec<Numbers>) = lines_and_numbers.into_iter().unzip();
        let named = if own > 1 { legend(&Line::legend(&drawn)) } else { String::new() };
        figures.push(figure(
            &(lines(&Axes::new("environment steps", ""), &drawn)? + &named),
            heading,
            &numbers,
        ));
    }
    html += &grid(&figures);
    Ok(Some(Section::new("Learning in the game", html)))
}

/// Returns the mean returns over stretches of the training. All episodes of a stretch count
/// equally.
fn returns(source: &Source, metrics: &Table) -> (Numbers, Line) {
    let column = |name: &str| metrics.numbers(name).unwrap_or_default();
    let (steps, means, counts) = (column("step"), column("episode_return"), column("episodes"));
    let last = steps.iter().flatten().copied().fold(0.0, f64::max) as u64;
    // Stretches of equally many steps. The curve has a point for each.
    let width = last.div_ceil(POINTS).max(1);
    let mut stretches: BTreeMap<u64, [f64; 2]> = Default::default();
    for ((step, mean), count) in steps.iter().zip(&means).zip(&counts) {
        if let (Some(step), Some(mean), Some(count)) = (step, mean, count) {
            let [sum, episodes] = stretches.entry(*step as u64 / width).or_default();
            *sum += mean * count;
            *episodes += count;
        }
    }
    let sql = format!(
        "SELECT CAST(floor(step / {width}.0) AS BIGINT) AS stretch, \
         sum(episode_return * episodes) / sum(episodes) AS mean_return, \
         sum(episodes) AS episodes FROM {} WHERE episode_return IS NOT NULL \
         GROUP BY stretch ORDER BY stretch",
        table(source, "metrics")
    );
    let numbers = Numbers::new(
        sql,
        [
            ("stretch", Column::U64(stretches.keys().copied().collect())),
            (
                "mean_return",
                Column::F64(
                    stretches.values().map(|[sum, episodes]| Some(sum / episodes)).collect(),
                ),
            ),
            (
                "episodes",
                Column::F64(stretches.values().map(|[_, episodes]| Some(*episodes)).collect()),
            ),
        ],
    );
    let point = |(stretch, [sum, episodes]): (&u64, &[f64; 2])| {
        (((*stretch as f64 + 0.5) * width as f64).min(last as f64), sum / episodes)
    };
    (numbers, Line::new(&source.stage, stretches.iter().map(point).collect()))
}

/// Returns horizontal lines: the returns of random actions and the expert, and the published
/// returns after four million steps.
fn published(returns: PublishedReturns, last: f64) -> Vec<Line> {
    let level = |name: &str, value: f64| Line::new(name, vec![(0.0, value), (last, value)]);
    let [scratch, _, both] = returns.online;
    vec![
        level("published: random actions", returns.random),
        level("published: PPO from scratch, 4M steps", scratch),
        level("published: LAPO, 4M steps", both),
        level("published: expert", returns.expert),
    ]
}

fn published_note(
    game: Game,
    PublishedReturns { random, expert, online: [scratch, rl, both], .. }: PublishedReturns,
) -> String {
    let [random, expert, scratch, rl, both] = [random, expert, scratch, rl, both].map(shown);
    let sentence = format!(
        "Published for {game}, easy mode (in no dataset): random {random}, expert {expert}. After \
         4,000,000 steps: PPO from scratch {scratch}, the latent policy without its supervised \
         path {rl} and with it {both}."
    );
    format!("<p class=\"note\">{}</p>", escape(&sentence))
}
