//! A map of latent actions: a sample of them goes in, two views of it come out, coloured by what was truly done, and `map.parquet`.

use super::Inputs;
use super::codes::{Point, Survey};
use super::numbers::{Numbers, command, name, table};
use super::page::{Section, escape, figure, halves, legend, paragraph};
use super::pca::pca;
use super::plots::{GREY, RGBColor, colour, css, scatter};
use super::umap::umap;
use crate::dataset::{Column, write_table};
use crate::stages::Error;
use crate::train::batch::generator;

/// Both views.
pub fn section(inputs: &Inputs, survey: Option<&Survey>) -> Result<Option<Section>, Error> {
    let (Some(labels), Some(survey)) = (inputs.of("labels"), survey) else { return Ok(None) };
    let points = &survey.points;
    let Some(dim) = points.first().map(|point| point.latent_action.len()) else { return Ok(None) };
    let all: Vec<f32> =
        points.iter().flat_map(|point| point.latent_action.iter().copied()).collect();
    let plane = pca(&all, dim);
    let near = umap(&all, dim, &plane.places, &mut generator(0, "umap", 0));
    let views = [
        ("pca_1", &plane.places, 0),
        ("pca_2", &plane.places, 1),
        ("umap_1", &near, 0),
        ("umap_2", &near, 1),
    ];
    let [pca_1, pca_2, umap_1, umap_2] = views.map(|(name, places, axis)| {
        (name, Column::F64(places.iter().map(|place| Some(place[axis])).collect()))
    });
    let action =
        ("action", Column::F64(points.iter().map(|point| point.action.map(f64::from)).collect()));
    let columns = [
        ("video", Column::Text(points.iter().map(|point| point.video.clone()).collect())),
        ("frame_index", Column::U32(points.iter().map(|point| point.frame_index).collect())),
        action.clone(),
        pca_1.clone(),
        pca_2.clone(),
        umap_1.clone(),
        umap_2.clone(),
    ];
    let file =
        write_table(inputs.place.store, &format!("{}/map.parquet", inputs.place.folder), &columns)?;

    let mine = name(&inputs.task.name);
    let shares = plane.shares.map(|share| format!("{:.0} %", share * 100.0)).join(" and ");
    let figures = [
        (format!("Principal components: {shares} of the variance"), &plane.places, [pca_1, pca_2]),
        (
            "UMAP: neighbours stay together, distances mean little".to_owned(),
            &near,
            [umap_1, umap_2],
        ),
    ]
    .map(|(caption, places, [x, y])| {
        let sql = format!("SELECT action, {}, {} FROM {mine}", x.0, y.0);
        let numbers = [Numbers::new(sql, [action.clone(), x, y])];
        Ok(figure(
            &(scatter(&coloured(points, places))? + &legend(&colours(points))),
            &caption,
            &numbers,
        ))
    });
    let figures = figures.into_iter().collect::<Result<Vec<_>, Error>>()?;
    let whole = escape(&command(&format!(
        "SELECT video, frame_index, latent_action FROM {}",
        table(labels, "labels")
    )));
    let said = format!(
        "{} of {} latent actions, before quantisation, drawn at random; points of one colour share their true action. Where colours lie \
         apart, latent actions tell what was done.",
        points.len(),
        survey.transitions
    );
    let html = paragraph(&said)
        + &halves(&figures)
        + &format!("<p class=\"note\">The latent actions themselves: <code>{whole}</code></p>");
    Ok(Some(Section { title: "Map", html, files: vec![file] }))
}

fn coloured(points: &[Point], places: &[[f64; 2]]) -> Vec<(f64, f64, RGBColor)> {
    let colour = |point: &Point| point.action.map_or(GREY, |action| colour(group(points, action)));
    points.iter().zip(places).map(|(point, place)| (place[0], place[1], colour(point))).collect()
}

/// The place of an action among all that occur.
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
        .then(|| ("not known".to_owned(), css(GREY)));
    known
        .iter()
        .enumerate()
        .map(|(i, action)| (format!("action {action}"), css(colour(i))))
        .chain(unknown)
        .collect()
}
