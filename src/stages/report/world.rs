//! What the world model knows. In: frames, the model, labels; out: predicted frames beside real ones, and what the commonest codes do.

use super::codes::{Survey, Tuple, text};
use super::numbers::{Numbers, name, table};
use super::page::{Section, escape, figure, halves};
use super::pictures::image;
use super::{Inputs, Source};
use crate::dataset::{Column, FileInfo, Shards, WindowIndex, write_table};
use crate::models::predict::{as_bytes, pixels, squared_error};
use crate::models::{Labeller, Predictor, Want};
use crate::stages::Error;
use crate::stages::world_model::WorldModel;
use crate::train::batch;

/// Windows out of which one is shown: the one in which most moves.
const AMONG: usize = 4;
/// Frames that a rollout predicts, and from how many first frames.
const STEPS: usize = 4;
const STARTS: usize = 2;

/// Pairs of frames and rollouts.
pub fn section(inputs: &Inputs, survey: Option<&Survey>) -> Result<Option<Section>, Error> {
    let (Some(frames), Some(dynamics)) = (inputs.of("frames"), inputs.of("dynamics")) else {
        return Ok(None);
    };
    let Some(model) = dynamics.paths(".safetensors").pop() else { return Ok(None) };
    let WorldModel { labeller, predictor, shards } =
        WorldModel::open(inputs.place, &model, frames.paths(".arrow"))?;
    let chosen = Chosen::from(
        &shards,
        held_out(&shards, labeller.as_ref(), dynamics),
        labeller.as_ref(),
        inputs.task.config.pairs,
    )?;
    let world = World { inputs, chosen, predictor: predictor.as_ref() };
    let (mut html, file) = world.pairs()?;
    if let (Some(labels), Some(survey)) = (inputs.of("labels"), survey) {
        html += &world.rollouts(labels, &survey.tuples)?;
    }
    Ok(Some(Section { title: "World model", html, files: vec![file] }))
}

/// The windows that the model was not trained on, if any were kept.
fn held_out(shards: &Shards, labeller: &dyn Labeller, dynamics: &Source) -> WindowIndex {
    let all = WindowIndex::new(shards, labeller.config().window());
    let every =
        dynamics.settings.get("holdout").and_then(serde_json::Value::as_u64).unwrap_or(0) as usize;
    let kept = all.subset(|episode| every > 0 && episode.is_multiple_of(every));
    if kept.is_empty() { all } else { kept }
}

/// Transitions that are shown, and what the model says of them.
struct Chosen {
    side: usize,
    /// Frames of a window.
    time: usize,
    /// `[window, time, side, side, 3]`
    frames: Vec<u8>,
    /// `[window, latent_dim]`
    latent_action: Vec<f32>,
    /// `[window]`: the codes as text
    codes: Vec<String>,
    /// `[window]`: video and frame number of o\[t\]
    places: Vec<(String, u32)>,
}

impl Chosen {
    fn from(
        shards: &Shards,
        index: WindowIndex,
        labeller: &dyn Labeller,
        pairs: usize,
    ) -> Result<Chosen, Error> {
        let (config, time) = (labeller.config(), labeller.config().window());
        let (side, window) = (config.frame_size, config.frame_size * config.frame_size * 3 * time);
        let candidates = batch::spread(&index, pairs * AMONG);
        let mut all = Vec::new();
        batch::gather(shards, &index, &candidates, &mut all)?;
        let starts: Vec<usize> = (0..candidates.len()).map(|i| i * time).collect();
        let labelled = if starts.is_empty() {
            Default::default()
        } else {
            labeller.label(&all, &starts, Want { codes: true, fdm_error: false })?
        };
        let most = |group: &[usize]| {
            group.iter().copied().max_by(|a, b| labelled.motion[*a].total_cmp(&labelled.motion[*b]))
        };
        let numbers: Vec<usize> = (0..candidates.len()).collect();
        let kept: Vec<usize> = numbers.chunks(AMONG).filter_map(most).collect();
        let place = |i: &usize| {
            let at = index.locate(candidates[*i]);
            let (shard, row) = (shards.shard(at.shard)?, at.row + time - 2);
            Ok((shard.video(row).to_owned(), shard.frame_index(row)))
        };
        let (dim, codes) = (config.latent_dim(), config.codes());
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

    /// All frames of a window but o\[t+1\].
    fn past(&self, window: usize) -> &[u8] {
        &self.frames[window * self.time * self.bytes()..][..(self.time - 1) * self.bytes()]
    }

    /// A frame of a window.
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
    /// Every transition's o\[t\], o\[t+1\], and what was predicted.
    fn pairs(&self) -> Result<(String, FileInfo), Error> {
        let Chosen { side, time, codes, places, .. } = &self.chosen;
        let (mut body, mut errors, bytes) =
            (String::from("<div class=\"pairs\">"), [vec![], vec![]], self.chosen.bytes());
        let past: Vec<u8> =
            (0..places.len()).flat_map(|i| self.chosen.past(i).iter().copied()).collect();
        let predicted = if past.is_empty() {
            vec![]
        } else {
            self.predictor.predict(&past, &self.chosen.latent_action)?
        };
        for (i, (video, frame_index)) in places.iter().enumerate() {
            let (last, next) = (self.chosen.frame(i, time - 2), self.chosen.frame(i, time - 1));
            let ours = &predicted[i * bytes..(i + 1) * bytes];
            let [error, copied] = [squared_error(ours, next), squared_error(&pixels(last), next)];
            errors[0].push(Some(error));
            errors[1].push(Some(copied));
            let shown_as = [
                (last, "o[t]".to_owned()),
                (next, "o[t+1]".into()),
                (&as_bytes(ours)[..], "o[t+1] as predicted".into()),
            ];
            let images = shown_as
                .into_iter()
                .map(|(frame, what)| image(frame, *side, &what))
                .collect::<Result<String, _>>()?;
            let (share, video) = (error / copied.max(f64::MIN_POSITIVE), escape(video));
            body += &format!(
                "<div><div class=\"strip\">{images}</div><div>{video}, frame {frame_index}: {share:.2} x copying</div></div>\n"
            );
        }
        let columns = [
            ("video", Column::Text(places.iter().map(|(video, _)| video.clone()).collect())),
            ("frame_index", Column::U32(places.iter().map(|(_, frame)| *frame).collect())),
            ("codes", Column::Text(codes.clone())),
            ("fdm_error", Column::F64(std::mem::take(&mut errors[0]))),
            ("copy_error", Column::F64(std::mem::take(&mut errors[1]))),
        ];
        let place = self.inputs.place;
        let file = write_table(place.store, &format!("{}/pairs.parquet", place.folder), &columns)?;
        let numbers = Numbers::new(format!("SELECT * FROM {}", self.table()), columns);
        let caption = "o[t], the real o[t+1], and the o[t+1] that the FDM predicts from the frames before it and the IDM's codes; of held-out \
                       episodes, where there are some, the transition of every four in which most moves";
        Ok((figure(&(body + "</div>"), caption, &[numbers]), file))
    }

    /// What a query calls `pairs.parquet`: after the stage, unless the map is.
    fn table(&self) -> String {
        let name_of = &self.inputs.task.name;
        if self.inputs.of("labels").is_some() {
            name(&format!("{name_of}_pairs"))
        } else {
            name(name_of)
        }
    }

    /// A row for each tuple of codes: what the FDM predicts when it is applied again and again.
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
                format!(", action {action}: {:.0} %", **count as f64 / all * 100.0)
            });
            let strips: String =
                strips.iter().map(|strip| format!("<div class=\"strip\">{strip}</div>")).collect();
            let (codes, uses, done) = (text(&tuple.codes), tuple.uses, done.collect::<String>());
            format!(
                "<div class=\"rollout\"><code>{codes}</code> <span class=\"tag\">{uses} times{done}</span>{strips}</div>\n"
            )
        };
        let body = halves(&tuples.iter().zip(strips.chunks(starts)).map(block).collect::<Vec<_>>());
        let caption = format!(
            "What do codes do? The {} commonest latent actions: a first frame, what the FDM predicts when the same codes are applied \
             {STEPS} times, and what that changed",
            tuples.len()
        );
        Ok(figure(&body, &caption, &self.numbers(labels, tuples)))
    }

    /// Images of the first frame, of all that follow and of what changed, by tuple and start.
    fn roll(&self, tuples: &[Tuple], starts: usize) -> Result<Vec<String>, Error> {
        let (side, bytes, count) = (self.chosen.side, self.chosen.bytes(), tuples.len() * starts);
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
                let frame = as_bytes(frame);
                strips[i] += &image(&frame, side, &format!("after {step}"))?;
                past[i].drain(..bytes);
                past[i].extend(frame);
            }
        }
        for (i, strip) in strips.iter_mut().enumerate() {
            let (first, last) = (
                self.chosen.frame(i % starts, self.chosen.time - 2),
                &past[i][past[i].len() - bytes..],
            );
            *strip += &image(&changed(first, last), side, "what changed, three times as strong")?;
        }
        Ok(strips)
    }

    /// How often each tuple occurs, and with which true actions.
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
        rows.sort();
        let listed: Vec<String> =
            tuples.iter().map(|tuple| format!("'{}'", text(&tuple.codes))).collect();
        let sql = format!(
            "WITH texts AS (SELECT video, frame_index, ARRAY_TO_STRING(latent_code, ' ') AS codes FROM {table_of}) \
             SELECT codes, action, count(*) AS uses FROM texts JOIN {} USING (video, frame_index) WHERE codes IN ({}) \
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

/// White where two frames are alike, darker the more they differ.
fn changed(first: &[u8], last: &[u8]) -> Vec<u8> {
    first.iter().zip(last).map(|(a, b)| 255 - a.abs_diff(*b).saturating_mul(3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_is_white() {
        assert_eq!(changed(&[10, 10, 200], &[10, 30, 0]), [255, 195, 0]);
    }
}
