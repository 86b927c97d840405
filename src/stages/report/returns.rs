//! Evaluation of a policy: decoding accuracy, the probe, rollouts, and returns beside published
//! ones.

use std::collections::BTreeMap;

use super::html::escape;
use super::latent_properties::properties;
use super::numbers::{Numbers, shown, table};
use super::page::{Section, figure, halves, legend, paragraph};
use super::plots::{Axes, BLUE, Bar, GREY, Line, ORANGE, RGBColor, bars, css, lines};
use super::{Inputs, Source};
use crate::dataset::{Column, read_table};
use crate::stages::Error;
use crate::stages::level_means::{LevelMean, by_level};

/// Makes the section with decoding and returns.
pub fn section(inputs: &Inputs) -> Result<Option<Section>, Error> {
    let mut html = String::new();
    let mut figures = Vec::new();
    if let Some(source) = inputs.of("decoder") {
        figures.extend(decoding(inputs, source)?);
    }
    if let Some(source) = inputs.of("evaluation") {
        let evaluation = evaluation(inputs, source)?;
        html += &evaluation["sentence"]
            .as_str()
            .map(|sentence| paragraph(&format!("Result: {sentence}.")))
            .unwrap_or_default();
        figures.extend(probed(inputs, source)?);
        figures.extend(foreseen(inputs, source)?);
        figures.extend(tested(inputs, source, &evaluation)?);
        figures.extend(returns(inputs, source, &evaluation)?);
    }
    Ok((!figures.is_empty()).then(|| Section::new("Policy", html + &halves(&figures))))
}

/// Draws decoding accuracy by the number of transitions that decoders were trained on.
fn decoding(inputs: &Inputs, source: &Source) -> Result<Option<String>, Error> {
    let Some(path) = source.paths("curve.parquet").pop() else { return Ok(None) };
    let curve = read_table(inputs.ctx.store, &path)?;
    let (Some(transitions), Some(accuracy), Some(r2)) =
        (curve.numbers("transitions"), curve.numbers("accuracy"), curve.numbers("r2"))
    else {
        return Ok(None);
    };
    // Discrete actions have an accuracy, continuous ones an R2.
    let (measure, values, label) = if accuracy.iter().any(Option::is_some) {
        ("accuracy", accuracy, "accuracy")
    } else {
        ("r2", r2, "R2")
    };
    let by_number = by_number(&transitions, &values);
    let rows: Vec<(u64, [f64; 3])> =
        by_number.iter().map(|(number, values)| (*number, mean_and_range(values))).collect();
    let column = |at: usize| Column::F64(rows.iter().map(|(_, row)| Some(row[at])).collect());
    let numbers = Numbers::new(
        format!(
            "SELECT transitions, avg({measure}) AS mean, min({measure}) AS least, \
             max({measure}) AS most FROM {} GROUP BY transitions ORDER BY transitions",
            table(source, "curve")
        ),
        [
            ("transitions", Column::U64(rows.iter().map(|(number, _)| *number).collect())),
            ("mean", column(0)),
            ("least", column(1)),
            ("most", column(2)),
        ],
    );
    let every = Numbers::new(
        format!(
            "SELECT transitions, draw, {measure} FROM {} ORDER BY transitions, draw",
            table(source, "curve")
        ),
        [
            ("transitions", whole(&transitions)),
            ("draw", whole(&curve.numbers("draw").unwrap_or_default())),
            (measure, Column::F64(values.clone())),
        ],
    );
    let mut line = Line::new(
        label,
        rows.iter().map(|(number, row)| ((*number as f64).log2(), row[0])).collect(),
    );
    line.beside = by_number
        .iter()
        .flat_map(|(number, values)| values.iter().map(|value| ((*number as f64).log2(), *value)))
        .collect();
    let chart = lines(&Axes::powers("transitions with a true action", label).wide(), &[line])?;
    let caption = format!(
        "Decoding held-out true actions: mean {label} over draws (line) and each draw (pale)"
    );
    Ok(Some(figure(&chart, &caption, &[numbers, every])))
}

/// Draws the probe's accuracy on held-out latent actions, beside guessing.
fn probed(inputs: &Inputs, source: &Source) -> Result<Option<String>, Error> {
    const BARS: [(&str, &str, RGBColor); 3] = [
        ("guessing", "guessing", GREY),
        ("linear", "a linear probe", BLUE),
        ("mlp", "hidden layers", BLUE),
    ];
    let Some(path) = source.paths("probe.parquet").pop() else { return Ok(None) };
    let probe = read_table(inputs.ctx.store, &path)?;
    let value =
        |name: &str| probe.numbers(name).and_then(|values| values.first().copied().flatten());
    // Only discrete actions have an entropy.
    let discrete = value("action_entropy").is_some();
    let columns =
        ["transitions", "guessing", "linear", "mlp", "mutual_information", "action_entropy"];
    let numbers = Numbers::new(
        format!("SELECT {} FROM {}", columns.join(", "), table(source, "probe")),
        columns.map(|name| {
            (
                name,
                if name == "transitions" {
                    whole(&[value(name)])
                } else {
                    Column::F64(vec![value(name)])
                },
            )
        }),
    );
    let bar = |(name, label, colour): (&str, &str, RGBColor)| {
        Some(Bar::new(label.into(), value(name)?, colour))
    };
    let (measure, what) =
        if discrete { ("accuracy", "share of correct predictions") } else { ("R2", "R2") };
    let chart = bars(
        &Axes::new("predictor", measure).wide(),
        &BARS.into_iter().filter_map(bar).collect::<Vec<_>>(),
    )?;
    Ok(Some(figure(
        &chart,
        &format!("True actions predicted from held-out latent actions: {what}"),
        &[numbers],
    )))
}

/// Draws the world model's error by the number of frames ahead.
fn foreseen(inputs: &Inputs, source: &Source) -> Result<Option<String>, Error> {
    const ERRORS: [(&str, &str); 3] = [
        ("copy_error", "copying the last real frame"),
        ("shuffled_error", "another stretch's latent actions"),
        ("fdm_error", "the FDM"),
    ];
    let Some(path) = source.paths("rollouts.parquet").pop() else { return Ok(None) };
    let rollouts = read_table(inputs.ctx.store, &path)?;
    let column = |name: &str| rollouts.numbers(name).unwrap_or_default();
    let ahead = column("frames_ahead");
    let points = |name: &str| {
        ahead
            .iter()
            .zip(column(name))
            .filter_map(|(ahead, error)| Some(((*ahead)?, error?)))
            .collect()
    };
    let curves: Vec<Line> =
        ERRORS.iter().map(|(name, label)| Line::new(label, points(name))).collect();
    let names = ["frames_ahead", "fdm_error", "copy_error", "shuffled_error"];
    let numbers = Numbers::new(
        format!(
            "SELECT {} FROM {} ORDER BY frames_ahead",
            names.join(", "),
            table(source, "rollouts")
        ),
        names.map(|name| {
            (name, if name == "frames_ahead" { whole(&ahead) } else { Column::F64(column(name)) })
        }),
    );
    let chart = lines(&Axes::new("frames ahead", "mean squared error").wide(), &curves)?
        + &legend(&Line::legend(&curves));
    Ok(Some(figure(
        &chart,
        "Frames predicted from earlier predictions, in held-out videos",
        &[numbers],
    )))
}

/// Lists the properties of latent actions.
fn tested(
    inputs: &Inputs,
    source: &Source,
    evaluation: &serde_json::Value,
) -> Result<Option<String>, Error> {
    let Some(path) = source.paths("verdict.parquet").pop() else { return Ok(None) };
    let rows = read_table(inputs.ctx.store, &path)?;
    Ok(properties(&evaluation["latents"], source, "verdict", &rows))
}

/// Groups the values of all draws by their number of transitions.
fn by_number(transitions: &[Option<f64>], values: &[Option<f64>]) -> BTreeMap<u64, Vec<f64>> {
    let mut by_number: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (number, value) in transitions.iter().zip(values) {
        if let (Some(number), Some(value)) = (number, value) {
            by_number.entry(*number as u64).or_default().push(*value);
        }
    }
    by_number
}

/// Returns a column of counts. A missing count is 0.
fn whole(values: &[Option<f64>]) -> Column {
    Column::U64(values.iter().map(|value| value.unwrap_or(0.0) as u64).collect())
}

fn mean_and_range(values: &[f64]) -> [f64; 3] {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    [
        mean,
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    ]
}

fn evaluation(inputs: &Inputs, source: &Source) -> Result<serde_json::Value, Error> {
    let Some(path) = source.paths("evaluation.json").pop() else {
        return Ok(serde_json::Value::Null);
    };
    inputs.json(&path)
}

/// A player and its mean return.
struct Player {
    name: String,
    transitions: Option<u64>,
    over_levels: LevelMean,
}

/// Draws the mean return of each player, beside published returns.
fn returns(
    inputs: &Inputs,
    source: &Source,
    evaluation: &serde_json::Value,
) -> Result<Option<String>, Error> {
    let Some(path) = source.paths("episodes.parquet").pop() else { return Ok(None) };
    let players = players(&read_table(inputs.ctx.store, &path)?);
    let axes = Axes::new(
        "player: random, the policy by its decoder's transitions, an agent, the expert",
        "mean return",
    );
    let chart = bars(&axes.wide(), &return_bars(&players, evaluation))?;
    let colours = [
        ("measured here", BLUE),
        ("random and expert, measured here", GREY),
        ("published", ORANGE),
    ];
    let colours = colours.map(|(name, colour)| (name.to_owned(), css(colour)));
    Ok(Some(figure(
        &(chart + &legend(&colours) + &published_note(evaluation)),
        "Mean returns with 95% confidence intervals over levels",
        &[return_numbers(source, &players)],
    )))
}

/// Returns the bars of all players, from the worst to the best baseline, and the published ones.
fn return_bars(players: &[Player], evaluation: &serde_json::Value) -> Vec<Bar> {
    let bar = |player: &Player, label: String, colour| {
        let LevelMean { mean, standard_error, .. } = player.over_levels;
        Bar::new(label, mean, colour).spread(standard_error.map(|error| 1.96 * error))
    };
    let named = |name: &'static str, colour| {
        players
            .iter()
            .filter(move |player| player.name == name)
            .map(move |player| bar(player, player.name.clone(), colour))
    };
    let trained = players
        .iter()
        .filter_map(|player| Some(bar(player, player.transitions?.to_string(), BLUE)))
        .chain(named("agent", BLUE));
    named("random", GREY)
        .chain(trained)
        .chain(named("expert", GREY))
        .chain(published(evaluation))
        .collect()
}

fn return_numbers(source: &Source, players: &[Player]) -> Numbers {
    let text = |of: fn(&Player) -> String| Column::Text(players.iter().map(of).collect());
    let number = |of: fn(&Player) -> Option<f64>| Column::F64(players.iter().map(of).collect());
    Numbers::new(
        format!(
            "SELECT player, transitions, count(*) AS levels, avg(level_return) AS mean_return, \
             stddev(level_return) / sqrt(count(*)) AS standard_error FROM \
             (SELECT player, transitions, level, avg(episode_return) AS level_return FROM {} \
             GROUP BY player, transitions, level) \
             GROUP BY player, transitions ORDER BY player, transitions",
            table(source, "episodes")
        ),
        [
            ("player", text(|player| player.name.clone())),
            ("transitions", number(|player| player.transitions.map(|number| number as f64))),
            (
                "levels",
                Column::U64(
                    players.iter().map(|player| player.over_levels.levels as u64).collect(),
                ),
            ),
            ("mean_return", number(|player| Some(player.over_levels.mean))),
            ("standard_error", number(|player| player.over_levels.standard_error)),
        ],
    )
}

const PUBLISHED: [(&str, &str); 4] =
    [("random", "random"), ("offline_256", "256"), ("offline_8192", "8192"), ("expert", "expert")];

/// Returns bars of the published returns in the evaluation's file.
fn published(evaluation: &serde_json::Value) -> impl Iterator<Item = Bar> {
    let figures = evaluation["published"].clone();
    PUBLISHED.into_iter().filter_map(move |(key, label)| {
        Some(Bar::new(label.into(), figures[key].as_f64()?, ORANGE))
    })
}

/// Returns a note with the published returns, since no dataset has them.
fn published_note(evaluation: &serde_json::Value) -> String {
    let figure = |(key, label): (&str, &str)| {
        Some(format!("{label} {}", shown(evaluation["published"][key].as_f64()?)))
    };
    let all: Vec<String> = PUBLISHED.into_iter().filter_map(figure).collect();
    let game = evaluation["game"].as_str().unwrap_or("this game");
    let sentence = format!(
        "Published for {game}, easy mode (in evaluation.json, in no dataset): {}.",
        all.join(", ")
    );
    if all.is_empty() {
        String::new()
    } else {
        format!("<p class=\"note\">{}</p>", escape(&sentence))
    }
}

/// Returns the players in the order of the query.
fn players(episodes: &crate::dataset::Table) -> Vec<Player> {
    // The name and the number of labelled transitions.
    type Name = (String, Option<u64>);
    let mut by_player: BTreeMap<Name, Vec<(i64, f64)>> = BTreeMap::new();
    let names = episodes.text("player").unwrap_or_default();
    let [numbers, levels, values] = ["transitions", "level", "episode_return"]
        .map(|name| episodes.numbers(name).unwrap_or_default());
    for (((name, number), level), value) in names.iter().zip(numbers).zip(levels).zip(values) {
        let name = (name.clone(), number.map(|number| number as u64));
        let episode = level.map(|level| level as i64).zip(value);
        by_player.entry(name).or_default().extend(episode);
    }
    let players = by_player.into_iter().map(|((name, transitions), episodes)| Player {
        name,
        transitions,
        over_levels: LevelMean::of(by_level(episodes).into_values()),
    });
    players.collect()
}
