//! A map of latent actions: two views of a sample, coloured by true action. The points are in
//! `map.parquet`.

use super::Inputs;
use super::codes::{Point, Survey};
use super::html::escape;
use super::numbers::{Numbers, command, name, table};
use super::page::{Section, figure, halves, legend, paragraph};
use super::pca::pca;
use super::plots::{GREY, RGBColor, colour, css, scatter};
use super::umap::umap;
use crate::dataset::{Column, write_table};
use crate::stages::Error;
use crate::train::batch::generator;

/// A column with its name.
type NamedColumn = (&'static str, Column);

/// Makes the section with both views.
pub fn section(inputs: &Inputs, survey: Option<&Survey>) -> Result<Option<Section>, Error> {
    let (Some(labels), Some(survey)) = (inputs.of("labels"), survey) else { return Ok(None) };
    let points = &survey.points;
    let Some(dim) = points.first().map(|point| point.latent_action.len()) else { return Ok(None) };
    let all: Vec<f32> =
        points.iter().flat_map(|point| point.latent_action.iter().copied()).collect();
    let plane = pca(&all, dim);
    // UMAP starts from the principal components, with a seed of its own.
    let layout = umap(&all, dim, &plane.places, &mut generator(0, "umap", 0));
    let action =
        ("action", Column::F64(points.iter().map(|point| point.action.map(f64::from)).collect()));
    let shares = plane.shares.map(|share| format!("{:.0}%", share * 100.0)).join(" and ");
    let views = [
        View {
            caption: format!("Principal components: {shares} of the variance"),
            columns: axes(["pca_1", "pca_2"], &plane.places),
            places: &plane.places,
        },
        View {
            caption: "UMAP: neighbours stay together, distances mean little".to_owned(),
            columns: axes(["umap_1", "umap_2"], &layout),
            places: &layout,
        },
    ];
    let mut columns = vec![
        ("video", Column::Text(points.iter().map(|point| point.video.clone()).collect())),
        ("frame_index", Column::U32(points.iter().map(|point| point.frame_index).collect())),
        action.clone(),
    ];
    columns.extend(views.iter().flat_map(|view| view.columns.clone()));
    let path = format!("{}/map.parquet", inputs.ctx.folder);
    let file = write_table(inputs.ctx.store, &path, &columns)?;

    let table_of = name(&inputs.task.name);
    let figures = views
        .into_iter()
        .map(|view| view.figure(points, &action, &table_of))
        .collect::<Result<Vec<_>, Error>>()?;
    let query = escape(&command(&format!(
        "SELECT video, frame_index, latent_action FROM {}",
        table(labels, "labels")
    )));
    let text = format!(
        "{} of {} latent actions before quantisation, drawn at random. The colour is the true \
         action. Where colours are separate, latent actions predict true actions.",
        points.len(),
        survey.transitions
    );
    let html = paragraph(&text)
        + &halves(&figures)
        + &format!("<p class=\"note\">The latent actions themselves: <code>{query}</code></p>");
    Ok(Some(Section { title: "Map", html, files: vec![file] }))
}

/// A layout of the points in a plane.
struct View<'a> {
    caption: String,
    columns: [NamedColumn; 2],
    places: &'a [[f64; 2]],
}

impl View<'_> {
    fn figure(self, points: &[Point], action: &NamedColumn, table: &str) -> Result<String, Error> {
        let [x, y] = self.columns;
        let sql = format!("SELECT action, {}, {} FROM {table}", x.0, y.0);
        let numbers = [Numbers::new(sql, [action.clone(), x, y])];
        let chart = scatter(&coloured(points, self.places))? + &legend(&colours(points));
        Ok(figure(&chart, &self.caption, &numbers))
    }
}

/// Returns the coordinates of places as two columns.
fn axes(names: [&'static str; 2], places: &[[f64; 2]]) -> [NamedColumn; 2] {
    let axis = |axis: usize| Column::F64(places.iter().map(|place| Some(place[axis])).collect());
    [(names[0], axis(0)), (names[1], axis(1))]
}

fn coloured(points: &[Point], places: &[[f64; 2]]) -> Vec<(f64, f64, RGBColor)> {
    let colour = |point: &Point| point.action.map_or(GREY, |action| colour(group(points, action)));
    points.iter().zip(places).map(|(point, place)| (place[0], place[1], colour(point))).collect()
}

/// Returns the number of an action among all that occur.
fn group(points: &[Point], action: u32) -> usize {
    actions(points).iter().position(|known| *known == action).unwrap_or(0)
}

fn actions(points: &[Point]) -> Vec<u32> {
    let all: std::collections::BTreeSet<u32> =
        points.iter().filter_map(|point| point.action).collect();
    all.into_iter().collect()
}

fn colours(points: &[Point]) -> Vec<(String, String)> {
    let known = actions(points);
    let unknown = points
        .iter()
        .any(|point| point.action.is_none())
        .then(|| ("unknown".to_owned(), css(GREY)));
    known
        .iter()
        .enumerate()
        .map(|(i, action)| (format!("action {action}"), css(colour(i))))
        .chain(unknown)
        .collect()
}
