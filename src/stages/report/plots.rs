//! Charts as SVG elements of a page.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
pub use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::stages::Error;

/// The colour of our measurements.
pub const BLUE: RGBColor = RGBColor(0x25, 0x63, 0xa8);
/// The colour of baselines.
pub const GREY: RGBColor = RGBColor(0x9a, 0xa5, 0xb1);
/// The colour of published results.
pub const ORANGE: RGBColor = RGBColor(0xe0, 0x8e, 0x2b);
const INK: RGBColor = RGBColor(0x61, 0x6e, 0x7c);
const FAINT: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);
/// Colours of groups, in this order. Most eyes can distinguish them.
const GROUPS: [RGBColor; 12] = [
    RGBColor(0x25, 0x63, 0xa8),
    RGBColor(0xe0, 0x8e, 0x2b),
    RGBColor(0x3a, 0x9a, 0x6b),
    RGBColor(0xc7, 0x3e, 0x4c),
    RGBColor(0x7d, 0x5a, 0xa6),
    RGBColor(0x2f, 0xa3, 0xb5),
    RGBColor(0x8a, 0x63, 0x4a),
    RGBColor(0xd0, 0x6b, 0xa6),
    RGBColor(0x8d, 0x9b, 0x2c),
    RGBColor(0x5b, 0x7c, 0x99),
    RGBColor(0xb3, 0x9d, 0xdb),
    RGBColor(0x2e, 0x4a, 0x62),
];
/// The size of a small chart, three in a row, in pixels.
const SMALL: (u32, u32) = (400, 240);
/// The size of a wide chart, in pixels.
const WIDE: (u32, u32) = (560, 280);
/// Lines of up to this many points show their points.
const FEW: usize = 24;
/// Up to this many bars are all labelled. Labels of more bars are numbers, and some are omitted if
/// space is short.
const LABELS: usize = 10;

/// Returns the colour of a group, by its number.
pub fn colour(group: usize) -> RGBColor {
    GROUPS[group % GROUPS.len()]
}

/// Returns a colour in CSS notation.
pub fn css(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// The labels and the size of a chart.
pub struct Axes<'a> {
    x: &'a str,
    y: &'a str,
    /// Whether x is a logarithm to base 2.
    powers: bool,
    size: (u32, u32),
}

impl<'a> Axes<'a> {
    /// Creates the axes of a small chart.
    pub fn new(x: &'a str, y: &'a str) -> Self {
        Axes { x, y, powers: false, size: SMALL }
    }

    /// Creates axes on which x is a logarithm to base 2. The labels show powers of 2.
    pub fn powers(x: &'a str, y: &'a str) -> Self {
        Axes { powers: true, ..Axes::new(x, y) }
    }

    /// Returns the axes of a wide chart.
    pub fn wide(self) -> Self {
        Axes { size: WIDE, ..self }
    }
}

/// A curve.
pub struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    /// Single points beside the curve.
    pub beside: Vec<(f64, f64)>,
}

impl Line {
    /// Creates a curve through all finite points.
    pub fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        let points = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        Line { name: name.to_owned(), points, beside: Vec::new() }
    }

    /// Returns the largest x.
    pub fn last(&self) -> Option<f64> {
        self.points.last().map(|(x, _)| *x)
    }

    /// Returns the names and colours of curves.
    pub fn legend(lines: &[Line]) -> Vec<(String, String)> {
        lines.iter().enumerate().map(|(i, line)| (line.name.clone(), css(colour(i)))).collect()
    }
}

/// A bar.
pub struct Bar {
    label: String,
    value: f64,
    /// Half the length of the error bar.
    spread: Option<f64>,
    colour: RGBColor,
}

impl Bar {
    /// Creates a bar without an error bar.
    pub fn new(label: String, value: f64, colour: RGBColor) -> Self {
        Bar { label, value, spread: None, colour }
    }

    /// Returns the bar with an error bar.
    pub fn spread(self, spread: Option<f64>) -> Self {
        Bar { spread: spread.filter(|spread| spread.is_finite()), ..self }
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

/// Draws curves over a common x.
pub fn lines(axes: &Axes, lines: &[Line]) -> Result<String, Error> {
    let all = || lines.iter().flat_map(|line| line.points.iter().chain(&line.beside)).copied();
    let x = span(all().map(|(x, _)| x));
    let y = span(all().map(|(_, y)| y));
    svg(axes.size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(x, y)?;
        let x_label = |x: &f64| {
            if !axes.powers {
                tick(*x)
            } else if x.fract() == 0.0 {
                format!("{:.0}", x.exp2())
            } else {
                String::new()
            }
        };
        let label = ("sans-serif", 12).into_font().color(&INK);
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(GREY)
            .label_style(label.clone());
        mesh.axis_desc_style(label).x_desc(axes.x).y_desc(axes.y).x_labels(7).y_labels(6);
        mesh.x_label_formatter(&x_label).y_label_formatter(&|y| tick(*y)).draw()?;
        for (i, line) in lines.iter().enumerate() {
            chart.draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour(i).stroke_width(2),
            ))?;
            let shown = if line.points.len() <= FEW { &line.points[..] } else { &[] };
            chart.draw_series(
                shown.iter().map(|point| Circle::new(*point, 3, colour(i).filled())),
            )?;
            chart.draw_series(
                line.beside
                    .iter()
                    .map(|point| Circle::new(*point, 3, colour(i).mix(0.35).filled())),
            )?;
        }
        Ok(())
    })
}

/// Draws bars of finite height side by side, with their labels and error bars.
pub fn bars(axes: &Axes, bars: &[Bar]) -> Result<String, Error> {
    let bars: Vec<&Bar> = bars.iter().filter(|bar| bar.value.is_finite()).collect();
    let high = bars.iter().map(|bar| bar.value + bar.spread.unwrap_or(0.0)).fold(0.0, f64::max);
    let low = bars.iter().map(|bar| bar.value - bar.spread.unwrap_or(0.0)).fold(0.0, f64::min);
    // Bars start at 0, so the range always includes it.
    let y = if high > low { low * 1.05..high * 1.05 } else { 0.0..1.0 };
    // The plot is narrower than the chart by its margins and y labels. A digit is 7 pixels wide.
    let room = axes.size.0 as usize - 68;
    let digits = bars.iter().map(|bar| bar.label.len()).max().unwrap_or(0);
    let every =
        if bars.len() > LABELS { (bars.len() * (digits * 7 + 6)).div_ceil(room) } else { 1 };
    svg(axes.size, |area| {
        let x = -0.6..bars.len() as f64 - 0.4;
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(x, y)?;
        let label = ("sans-serif", 12).into_font().color(&INK);
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(GREY)
            .label_style(label.clone());
        mesh.axis_desc_style(label.clone())
            .x_desc(axes.x)
            .y_desc(axes.y)
            .x_labels(0)
            .y_labels(6)
            .y_label_formatter(&|y| tick(*y))
            .draw()?;
        // Many bars need narrower gaps.
        let half = if bars.len() > 30 { 0.45 } else { 0.36 };
        let under = label.pos(Pos::new(HPos::Center, VPos::Top));
        for (i, bar) in bars.iter().enumerate() {
            let at = i as f64;
            chart.draw_series([Rectangle::new(
                [(at - half, 0.0), (at + half, bar.value)],
                bar.colour.filled(),
            )])?;
            if let Some(spread) = bar.spread {
                let ends = [(at, bar.value - spread), (at, bar.value + spread)];
                chart.draw_series([PathElement::new(ends, INK.stroke_width(2))])?;
            }
            if i % every == 0 {
                chart.draw_series([EmptyElement::at((at, low))
                    + Text::new(bar.label.clone(), (0, 6), under.clone())])?;
            }
        }
        Ok(())
    })
}

/// Draws coloured points in a plane without axes.
pub fn scatter(points: &[(f64, f64, RGBColor)]) -> Result<String, Error> {
    let x = span(points.iter().map(|point| point.0));
    let y = span(points.iter().map(|point| point.1));
    svg((560, 440), |area| {
        let corners = [(x.start, y.start), (x.end, y.end)];
        let mut chart = ChartBuilder::on(area).margin(6).build_cartesian_2d(x, y)?;
        chart.draw_series([Rectangle::new(corners, FAINT)])?;
        chart.draw_series(
            points.iter().map(|(x, y, colour)| Circle::new((*x, *y), 2, colour.mix(0.65).filled())),
        )?;
        Ok(())
    })
}

/// Draws an SVG element that fills the available width.
fn svg(
    size: (u32, u32),
    draw: impl for<'a> FnOnce(&Area<'a>) -> Drawn<'a>,
) -> Result<String, Error> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let done = draw(&area).and_then(|()| area.present());
        done.map_err(|e| Error::Invariant { what: format!("cannot draw a chart: {e}") })?;
    }
    // The backend fixes the size in pixels; a `viewBox` lets the chart scale.
    let inner = text.split_once('>').map_or("", |(_, inner)| inner);
    Ok(format!("<svg viewBox=\"0 0 {} {}\" role=\"img\">{inner}", size.0, size.1))
}

/// Returns the range of values with a margin.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    // `f64` has no `Ord`, so the extremes are folded.
    let (least, most) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    match most - least {
        range if range > 0.0 => least - range * 0.03..most + range * 0.05,
        _ if least.is_finite() => least - 0.5..most + 0.5,
        _ => 0.0..1.0,
    }
}

/// Returns a number for the label of an axis.
fn tick(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size < 1e-3 => format!("{value:.1e}").replace(".0e", "e"),
        _ => format!("{:.3}", value).trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_self_contained_and_may_be_empty() {
        for chart in
            [lines(&Axes::new("x", "y"), &[]), bars(&Axes::new("<x>", "y"), &[]), scatter(&[])]
        {
            let chart = chart.expect("the chart is drawn");
            assert!(
                chart.starts_with("<svg viewBox=") && chart.trim_end().ends_with("</svg>"),
                "{chart}"
            );
            assert!(!chart.contains("http") && !chart.contains("<x>"), "{chart}");
        }
    }

    #[test]
    fn values_that_are_not_finite_have_no_mark() {
        let points = vec![(0.0, f64::INFINITY), (1.0, 0.5), (2.0, f64::NAN), (3.0, 0.25)];
        let drawn =
            lines(&Axes::new("x", "y"), &[Line::new("error", points)]).expect("the chart is drawn");
        assert_eq!(drawn.matches("<circle").count(), 2, "{drawn}");
        let tall = |value| Bar::new("a".into(), value, BLUE).spread(Some(f64::INFINITY));
        let drawn = bars(&Axes::new("x", "y"), &[tall(f64::INFINITY), tall(1.0)])
            .expect("the chart is drawn");
        assert!(!drawn.contains("inf") && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn numbers_on_an_axis_are_short() {
        assert_eq!(
            [0.0, 0.25, 1.0, 12_000.0, 0.000_02, 0.000_15].map(tick),
            ["0", "0.25", "1", "12k", "2e-5", "1.5e-4"]
        );
    }
}
