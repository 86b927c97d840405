//! The columns of an episode's frames: indices, labels, true actions and rewards.

use crate::dataset::{
    self, Action, Actions, ExportColumn, FileInfo, LabelShape, Labels, Store, read_labels,
};
use crate::stages::Error;
use crate::stages::export::ExportTask;

use super::Episode;

/// The labels of one shard, by row.
pub(in crate::stages::export) struct ShardLabels {
    pub labels: Option<Labels>,
    /// The label of each row of the shard.
    pub label: Vec<Option<usize>>,
}

impl ShardLabels {
    /// Reads the labels of a shard.
    pub fn read(
        store: &Store,
        file: &FileInfo,
        shard: &FileInfo,
        shape: LabelShape,
    ) -> Result<Self, Error> {
        let labels = read_labels(store, &file.path)?;
        if labels.is_empty() {
            return Ok(ShardLabels { labels: None, label: vec![None; shard.rows as usize] });
        }
        let of = labels.names[labels.shard[0] as usize].clone();
        if of != shard.blake3 {
            return Err(Error::NoShard { file: file.path.clone(), shard: of });
        }
        Self::new(labels, file, shard, shape)
    }

    fn new(
        labels: Labels,
        file: &FileInfo,
        shard: &FileInfo,
        shape: LabelShape,
    ) -> Result<Self, Error> {
        let corrupt = |reason: String| dataset::Error::Corrupt { path: file.path.clone(), reason };
        if labels.shape != shape {
            return Err(corrupt("its latent actions differ in length from others".into()).into());
        }
        let mut label = vec![None; shard.rows as usize];
        for (i, row) in labels.row.iter().enumerate() {
            let place = label.get_mut(*row as usize).filter(|_| labels.shard[i] == labels.shard[0]);
            *place.ok_or_else(|| corrupt(format!("row {i} is of no frame of {}", shard.path)))? =
                Some(i);
        }
        Ok(ShardLabels { labels: Some(labels), label })
    }
}

/// Files of labels, read one after the other: they are in the order of the shards.
pub(in crate::stages::export) struct LabelFiles<'a> {
    store: &'a Store,
    files: std::slice::Iter<'a, FileInfo>,
    next: Option<(&'a FileInfo, Labels)>,
    /// The lengths of latent actions and codes.
    pub shape: LabelShape,
    /// Whether labels have the FDM's error.
    pub has_error: bool,
}

impl<'a> LabelFiles<'a> {
    /// Opens the files and reads the first one with labels.
    pub fn open(store: &'a Store, files: &'a [FileInfo]) -> Result<Self, Error> {
        let shape = LabelShape { latent_dim: 0, codes: 0 };
        let mut opened =
            LabelFiles { store, files: files.iter(), next: None, shape, has_error: false };
        opened.advance()?;
        let Some((_, first)) = &opened.next else {
            let file = files.first().map_or("", |file| file.path.as_str());
            let reason = "there are no labels to export".to_owned();
            let cure = "add videos that are longer than the model's window";
            return Err(ExportTask::fault(file, reason, cure));
        };
        opened.shape = first.shape;
        opened.has_error = first.fdm_error.iter().all(Option::is_some);
        Ok(opened)
    }

    /// Reads the next file with labels.
    fn advance(&mut self) -> Result<(), Error> {
        self.next = None;
        for file in self.files.by_ref() {
            let labels = read_labels(self.store, &file.path)?;
            if !labels.is_empty() {
                self.next = Some((file, labels));
                break;
            }
        }
        Ok(())
    }

    /// Returns the labels of a later shard than before. A shard of short episodes has none.
    pub fn of_shard(&mut self, shard: &FileInfo) -> Result<ShardLabels, Error> {
        let is_of_shard = |(_, labels): &mut (&FileInfo, Labels)| {
            labels.names[labels.shard[0] as usize] == shard.blake3
        };
        let Some((file, labels)) = self.next.take_if(is_of_shard) else {
            return Ok(ShardLabels { labels: None, label: vec![None; shard.rows as usize] });
        };
        let labels = ShardLabels::new(labels, file, shard, self.shape)?;
        self.advance()?;
        Ok(labels)
    }

    /// Checks that all labels belonged to shards of the frames.
    pub fn finish(self) -> Result<(), Error> {
        self.next.map_or(Ok(()), |(file, labels)| {
            let shard = labels.names[labels.shard[0] as usize].clone();
            Err(Error::NoShard { file: file.path.clone(), shard })
        })
    }
}

/// The columns of labels.
pub(super) struct LabelColumns {
    pub shape: LabelShape,
    pub has_error: bool,
}

impl LabelColumns {
    /// Returns the columns of some frames: zeros and false where a frame has no label. `label` has
    /// the position of each frame's label in `labels`.
    pub fn of(
        &self,
        label: &[Option<usize>],
        labels: Option<&Labels>,
    ) -> Vec<(String, ExportColumn)> {
        let LabelShape { latent_dim, codes } = self.shape;
        let frames = label.len();
        let mut latent_action = vec![0.0; frames * latent_dim];
        let mut latent_code = vec![0; frames * codes];
        let mut fdm_error = vec![0.0; frames];
        for (frame, at) in label.iter().enumerate() {
            let (Some(at), Some(labels)) = (*at, labels) else { continue };
            latent_action[frame * latent_dim..][..latent_dim]
                .copy_from_slice(&labels.latent_action[at * latent_dim..][..latent_dim]);
            let from = &labels.latent_code[at * codes..][..codes];
            for (to, code) in latent_code[frame * codes..].iter_mut().zip(from) {
                *to = i64::from(*code);
            }
            fdm_error[frame] = labels.fdm_error[at].unwrap_or_default();
        }
        let valid = label.iter().map(Option::is_some).collect();
        let codes = match codes {
            1 => ExportColumn::I64(latent_code),
            codes => ExportColumn::I64Rows(latent_code, codes),
        };
        let mut columns =
            vec![("latent_action", floats(latent_action, latent_dim)), ("latent_code", codes)];
        if self.has_error {
            columns.push(("fdm_error", ExportColumn::F32(fdm_error)));
        }
        columns.push(("latent_action_valid", ExportColumn::Bool(valid)));
        columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect()
    }
}

/// The columns of all frames.
pub(in crate::stages::export) struct FrameColumns<'a> {
    pub shape: LabelShape,
    pub has_error: bool,
    pub actions: Option<&'a Actions>,
    pub fps: u32,
}

impl FrameColumns<'_> {
    /// Returns the columns of episode `number`.
    pub fn of(
        &self,
        episode: &Episode,
        number: usize,
        labels: &ShardLabels,
    ) -> Result<Vec<(String, ExportColumn)>, Error> {
        let frames = 0..episode.run.len as i64;
        let first = episode.first_index as i64;
        let time = |frame: i64| (frame as f64 / f64::from(self.fps)) as f32;
        let LabelShape { latent_dim, codes } = self.shape;
        let of_labels =
            LabelColumns { shape: LabelShape { latent_dim, codes }, has_error: self.has_error };
        let actions = self.action_columns(episode)?.into_iter();
        let mut columns: Vec<(String, ExportColumn)> =
            actions.map(|(name, column)| (name.to_owned(), column)).collect();
        let run = &episode.run;
        let label = &labels.label[run.first_row..run.first_row + run.len];
        columns.extend(of_labels.of(label, labels.labels.as_ref()));
        let len = run.len;
        let indices = [
            ("timestamp", ExportColumn::F32(frames.clone().map(time).collect())),
            ("frame_index", ExportColumn::I64(frames.clone().collect())),
            ("episode_index", ExportColumn::I64(vec![number as i64; len])),
            ("index", ExportColumn::I64(frames.map(|frame| first + frame).collect())),
            ("task_index", ExportColumn::I64(vec![0; len])),
        ];
        columns.extend(indices.map(|(name, column)| (name.to_owned(), column)));
        Ok(columns)
    }

    /// Checks that every frame but an episode's last has a true action, if they are exported.
    pub fn check_actions(&self, episodes: &[Episode]) -> Result<(), Error> {
        episodes.iter().try_for_each(|episode| self.action_columns(episode).map(|_| ()))
    }

    /// Returns the columns of true actions, and of rewards if all of them are known.
    fn action_columns(
        &self,
        episode: &Episode,
    ) -> Result<Vec<(&'static str, ExportColumn)>, Error> {
        let Some(actions) = self.actions else { return Ok(vec![]) };
        let rewards = &actions.rows().reward;
        let width = actions.axes().unwrap_or(1);
        let mut values: Vec<f32> = Vec::new();
        let mut reward = Vec::new();
        for frame in 0..episode.run.len {
            let index = episode.first_frame + frame as u32;
            match actions.get(&episode.run.video, index) {
                Some(Action::Discrete(action)) => values.push(action as f32),
                Some(Action::Continuous(action)) => values.extend(action),
                // The last frame has no transition. It repeats the last action.
                None if frame + 1 == episode.run.len => {
                    let last = values.len().saturating_sub(width);
                    let repeated = values[last..].to_vec();
                    values.extend(if repeated.is_empty() { vec![0.0; width] } else { repeated });
                }
                None => {
                    let reason = format!("frame {index} has no true action");
                    let cure = "import an action for every frame, or leave out `actions`";
                    return Err(ExportTask::fault(&episode.run.video, reason, cure));
                }
            }
            let row = actions.row(&episode.run.video, index);
            reward.push(row.and_then(|row| rewards[row]).unwrap_or_default() as f32);
        }
        let mut columns = vec![("action", floats(values, width))];
        if !rewards.is_empty() && rewards.iter().all(Option::is_some) {
            columns.push(("next.reward", ExportColumn::F32(reward)));
        }
        Ok(columns)
    }
}

/// Returns a column of vectors. LeRobot stores vectors of one number as plain numbers.
fn floats(values: Vec<f32>, width: usize) -> ExportColumn {
    if width == 1 { ExportColumn::F32(values) } else { ExportColumn::F32Rows(values, width) }
}
