//! The world model: predicted frames beside real ones, and the effects of the most common codes.

use super::codes::{Survey, Tuple, text};
use super::frame_images::image;
use super::html::escape;
use super::numbers::{Numbers, name, table};
use super::page::{Section, figure, halves};
use super::{Inputs, Source};
use crate::dataset::{Column, FileInfo, Shards, WindowIndex, write_table};
use crate::models::predict::{as_bytes, pixels, squared_error};
use crate::models::{LabelOutputs, Labeller, Predictor};
use crate::stages::Error;
use crate::stages::world_model::WorldModel;
use crate::train::batch;

/// Of this many windows, the one with the most motion is shown.
const AMONG: usize = 4;
/// The number of frames a rollout predicts.
const STEPS: usize = 4;
/// The number of first frames of rollouts.
const STARTS: usize = 2;

/// Makes the section with pairs of frames and rollouts.
pub fn section(inputs: &Inputs, survey: Option<&Survey>) -> Result<Option<Section>, Error> {
    let (Some(frames), Some(dynamics)) = (inputs.of("frames"), inputs.of("dynamics")) else {
        return Ok(None);
    };
    let Some(model) = dynamics.paths(".safetensors").pop() else { return Ok(None) };
    let WorldModel { labeller, predictor, shards } =
        WorldModel::open(inputs.ctx, &model, frames.paths(".arrow"))?;
    let chosen = Chosen::from(
        &shards,
        held_out(&shards, labeller.as_ref(), dynamics),
        labeller.as_ref(),
        inputs.task.config.pairs,
    )?;
    let world = World { inputs, chosen, predictor: predictor.as_ref() };
    let (mut html, file) = world.pairs()?;
    // Predictions only follow each other where the frame before the predicted one is known.
    let config = labeller.config();
    let steps = config.horizon.is_next_frame() || config.context == 0;
    if let (true, Some(labels), Some(survey)) = (steps, inputs.of("labels"), survey) {
        html += &world.rollouts(labels, &survey.tuples)?;
    }
    Ok(Some(Section { title: "World model", html, files: vec![file] }))
}

/// Returns the windows of held-out videos, or all windows if there are none.
fn held_out(shards: &Shards, labeller: &dyn Labeller, dynamics: &Source) -> WindowIndex {
    let config = labeller.config();
    let horizon = |interval| config.horizon.frames(interval);
    let all = WindowIndex::with_horizon(shards, config.window(), horizon);
    let holdout = dynamics.settings.get("holdout").and_then(serde_json::Value::as_u64);
    let [_, held_out] = all.split(&shards.split(holdout.unwrap_or(0) as usize));
    if held_out.is_empty() { all } else { held_out }
}

/// The transitions to show, with their labels.
struct Chosen {
    side: usize,
    /// The number of frames in a window.
    time: usize,
    /// `[window, time, side, side, 3]`.
    frames: Vec<u8>,
    /// `[window, latent_dim]`.
    latent_action: Vec<f32>,
    /// `[window]`: the codes as text.
    codes: Vec<String>,
    /// `[window]`: video and frame number of o\[t\].
    places: Vec<(String, u32)>,
}

impl Chosen {
    fn from(
        shards: &Shards,
        index: WindowIndex,
        labeller: &dyn Labeller,
        pairs: usize,
    ) -> Result<Chosen, Error> {
        let config = labeller.config();
        let time = config.window();
        let side = config.frame_size;
        let window = side * side * 3 * time;
        let candidates = batch::spread(&index, pairs * AMONG);
        let mut all = Vec::new();
        batch::gather(shards, &index, &candidates, &mut all)?;
        let starts: Vec<usize> = (0..candidates.len()).map(|i| i * time).collect();
        // An empty batch has no shape that a network takes.
        let labelled = if starts.is_empty() {
            Default::default()
        } else {
            labeller.label(&all, &starts, LabelOutputs { codes: true, fdm_error: false })?
        };
        let most = |group: &[usize]| {
            group.iter().copied().max_by(|a, b| labelled.motion[*a].total_cmp(&labelled.motion[*b]))
        };
        let numbers: Vec<usize> = (0..candidates.len()).collect();
        let kept: Vec<usize> = numbers.chunks(AMONG).filter_map(most).collect();
        let place = |i: &usize| {
            let at = index.locate(candidates[*i]);
            let shard = shards.shard(at.shard)?;
            let row = at.row + time - 2;
            Ok((shard.video(row).to_owned(), shard.frame_index(row)))
        };
        let dim = config.latent_dim();
        let codes = config.codes();
        Ok(Chosen {
            side,
            time,
            frames: kept
                .iter()
                .flat_map(|i| all[i * window..(i + 1) * window].iter().copied())
                .collect(),
            latent_action: kept
                .iter()
                .flat_map(|i| labelled.latent_action[i * dim..(i + 1) * dim].iter().copied())
                .collect(),
            codes: kept
                .iter()
                .map(|i| text(&labelled.latent_code[i * codes..(i + 1) * codes]))
                .collect(),
            places: kept.iter().map(place).collect::<Result<_, Error>>()?,
        })
    }

    fn bytes(&self) -> usize {
        self.side * self.side * 3
    }

    /// Returns all frames of a window except the last.
    fn past(&self, window: usize) -> &[u8] {
        &self.frames[window * self.time * self.bytes()..][..(self.time - 1) * self.bytes()]
    }

    /// Returns a frame of a window.
    fn frame(&self, window: usize, at: usize) -> &[u8] {
        &self.frames[(window * self.time + at) * self.bytes()..][..self.bytes()]
    }
}

struct World<'a> {
    inputs: &'a Inputs<'a>,
    chosen: Chosen,
    predictor: &'a dyn Predictor,
}

impl World<'_> {
    /// Shows o\[t\], o\[t+h\] and the prediction of each transition, and writes `pairs.parquet`.
    fn pairs(&self) -> Result<(String, FileInfo), Error> {
        let Chosen { side, time, codes, places, .. } = &self.chosen;
        let mut body = String::from("<div class=\"pairs\">");
        let mut fdm_errors = vec![];
        let mut copy_errors = vec![];
        let bytes = self.chosen.bytes();
        let past: Vec<u8> =
            (0..places.len()).flat_map(|i| self.chosen.past(i).iter().copied()).collect();
        let predicted = if past.is_empty() {
            vec![]
        } else {
            self.predictor.predict(&past, &self.chosen.latent_action)?
        };
        for (i, (video, frame_index)) in places.iter().enumerate() {
            let last = self.chosen.frame(i, time - 2);
            let next = self.chosen.frame(i, time - 1);
            let prediction = &predicted[i * bytes..(i + 1) * bytes];
            let error = squared_error(prediction, next);
            let copy_error = squared_error(&pixels(last), next);
            fdm_errors.push(Some(error));
            copy_errors.push(Some(copy_error));
            let images = image(last, *side, "o[t]")?
                + &image(next, *side, "o[t+h]")?
                + &image(&as_bytes(prediction), *side, "predicted o[t+h]")?;
            body += &format!(
                "<div><div class=\"strip\">{images}</div>\
                 <div>{}, frame {frame_index}: {:.2}x copying</div></div>\n",
                escape(video),
                error / copy_error.max(f64::MIN_POSITIVE)
            );
        }
        let columns = [
            ("video", Column::Text(places.iter().map(|(video, _)| video.clone()).collect())),
            ("frame_index", Column::U32(places.iter().map(|(_, frame)| *frame).collect())),
            ("codes", Column::Text(codes.clone())),
            ("fdm_error", Column::F64(fdm_errors)),
            ("copy_error", Column::F64(copy_errors)),
        ];
        let place = self.inputs.ctx;
        let file = write_table(place.store, &format!("{}/pairs.parquet", place.folder), &columns)?;
        let numbers = Numbers::new(format!("SELECT * FROM {}", self.table()), columns);
        let caption = "o[t], the real o[t+h] (the next frame, unless the model has a `horizon`), and \
             the o[t+h] predicted by the FDM from earlier frames and the IDM's codes. Of every four transitions, of held-out episodes if there \
             are any, the one with the most motion is shown.";
        Ok((figure(&(body + "</div>"), caption, &[numbers]), file))
    }

    /// Returns the SQL table of `pairs.parquet`: the stage's name, unless the map has it.
    fn table(&self) -> String {
        let name_of = &self.inputs.task.name;
        if self.inputs.of("labels").is_some() {
            name(&format!("{name_of}_pairs"))
        } else {
            name(name_of)
        }
    }

    /// Shows, for each combination of codes, the frames predicted by applying it repeatedly.
    fn rollouts(&self, labels: &Source, tuples: &[Tuple]) -> Result<String, Error> {
        let starts = STARTS.min(self.chosen.places.len());
        if starts == 0 || tuples.is_empty() {
            return Ok(String::new());
        }
        let strips = self.roll(tuples, starts)?;
        let block = |(tuple, strips): (&Tuple, &[String])| {
            let all = tuple.actions.values().sum::<u64>().max(1) as f64;
            let mut actions: Vec<_> = tuple.actions.iter().collect();
            actions.sort_by_key(|(action, count)| (std::cmp::Reverse(**count), **action));
            let done = actions.iter().take(3).map(|(action, count)| {
                format!(", action {action}: {:.0}%", **count as f64 / all * 100.0)
            });
            let strips: String =
                strips.iter().map(|strip| format!("<div class=\"strip\">{strip}</div>")).collect();
            format!(
                "<div class=\"rollout\"><code>{}</code> \
                 <span class=\"tag\">{} times{}</span>{strips}</div>\n",
                text(&tuple.codes),
                tuple.uses,
                done.collect::<String>()
            )
        };
        let body = halves(&tuples.iter().zip(strips.chunks(starts)).map(block).collect::<Vec<_>>());
        let caption = format!(
            "The effects of codes. For each of the {} most common latent actions: a first frame, \
             the FDM's predictions when the same codes are applied {STEPS} times, and the change",
            tuples.len()
        );
        Ok(figure(&body, &caption, &self.numbers(labels, tuples)))
    }

    /// Returns the images of each combination and start: the first frame, the predictions, and the
    /// change.
    fn roll(&self, tuples: &[Tuple], starts: usize) -> Result<Vec<String>, Error> {
        let side = self.chosen.side;
        let bytes = self.chosen.bytes();
        let count = tuples.len() * starts;
        let mut past: Vec<Vec<u8>> =
            (0..count).map(|i| self.chosen.past(i % starts).to_vec()).collect();
        let latent_action: Vec<f32> =
            (0..count).flat_map(|i| tuples[i / starts].latent_action.iter().copied()).collect();
        let first =
            |i: usize| image(self.chosen.frame(i % starts, self.chosen.time - 2), side, "o[t]");
        let mut strips = (0..count).map(first).collect::<Result<Vec<_>, _>>()?;
        for step in 1..=STEPS {
            let predicted = self.predictor.predict(&past.concat(), &latent_action)?;
            for (i, frame) in predicted.chunks_exact(bytes).enumerate() {
                // The prediction becomes the newest of the past frames.
                let frame = as_bytes(frame);
                strips[i] += &image(&frame, side, &format!("after {step}"))?;
                past[i].drain(..bytes);
                past[i].extend(frame);
            }
        }
        for (i, strip) in strips.iter_mut().enumerate() {
            let first = self.chosen.frame(i % starts, self.chosen.time - 2);
            let last = &past[i][past[i].len() - bytes..];
            *strip += &image(&changed(first, last), side, "the change, amplified three times")?;
        }
        Ok(strips)
    }

    /// Returns how often each combination occurs, and with which true actions.
    fn numbers(&self, labels: &Source, tuples: &[Tuple]) -> Vec<Numbers> {
        let table_of = table(labels, "labels");
        let codes = Column::Text(tuples.iter().map(|tuple| text(&tuple.codes)).collect());
        let uses = Column::U64(tuples.iter().map(|tuple| tuple.uses).collect());
        let sql = format!(
            "SELECT ARRAY_TO_STRING(latent_code, ' ') AS codes, count(*) AS uses FROM {table_of} \
             GROUP BY codes ORDER BY uses DESC, codes LIMIT {}",
            tuples.len()
        );
        let mut numbers = vec![Numbers::new(sql, [("codes", codes), ("uses", uses)])];
        let Some(actions) = self
            .inputs
            .of("actions")
            .filter(|_| tuples.iter().any(|tuple| !tuple.actions.is_empty()))
        else {
            return numbers;
        };
        let mut rows: Vec<(String, u32, u64)> = tuples
            .iter()
            .flat_map(|tuple| {
                tuple.actions.iter().map(|(action, count)| (text(&tuple.codes), *action, *count))
            })
            .collect();
        // In the order of the query.
        rows.sort();
        let listed: Vec<String> =
            tuples.iter().map(|tuple| format!("'{}'", text(&tuple.codes))).collect();
        let sql = format!(
            "WITH texts AS (SELECT video, frame_index, \
             ARRAY_TO_STRING(latent_code, ' ') AS codes FROM {table_of}) \
             SELECT codes, action, count(*) AS uses FROM texts JOIN {} \
             USING (video, frame_index) WHERE codes IN ({}) \
             GROUP BY codes, action ORDER BY codes, action",
            table(actions, "actions"),
            listed.join(", ")
        );
        numbers.push(Numbers::new(
            sql,
            [
                ("codes", Column::Text(rows.iter().map(|row| row.0.clone()).collect())),
                ("action", Column::U32(rows.iter().map(|row| row.1).collect())),
                ("uses", Column::U64(rows.iter().map(|row| row.2).collect())),
            ],
        ));
        numbers
    }
}

/// Returns an image of the change: white where two frames are equal, darker the more they differ.
fn changed(first: &[u8], last: &[u8]) -> Vec<u8> {
    first.iter().zip(last).map(|(a, b)| 255 - a.abs_diff(*b).saturating_mul(3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_pixels_are_white() {
        assert_eq!(changed(&[10, 10, 200], &[10, 30, 0]), [255, 195, 0]);
    }
}
