//! Plots, as SVG: a bar for each contender of a row, a line for each series of a curve.
//!
//! Bars and lines are medians, and their thin lines reach from the worst round to the best. A line
//! across the bars is what must be reached against a peer. The places of a curve stand at equal
//! distances, whatever lies between them.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::curves::Grown;
use crate::report::{Measured, short};
use crate::rows::Against;

const SIZE: (u32, u32) = (720, 360);
const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const THEIRS: RGBColor = RGBColor(0x9a, 0xa3, 0xad);
/// Beside the last bar, in bars: for what must be reached.
const MARGIN: f64 = 0.6;
const LIMIT: RGBColor = RGBColor(0xb0, 0x1e, 0x1e);
const LINES: [RGBColor; 3] = [OURS, RGBColor(0xc9, 0x5d, 0x2c), RGBColor(0x55, 0x8b, 0x2f)];

type Drawn = Result<(), Box<dyn Error>>;

fn canvas(path: &Path) -> Result<DrawingArea<SVGBackend<'_>, Shift>, Box<dyn Error>> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    Ok(area)
}

/// A place on an axis: what is whole needs no fraction.
fn place(value: f64) -> String {
    match value.fract() == 0.0 && value.abs() < 100.0 {
        true => format!("{value:.0}"),
        false => short(value),
    }
}

/// What must be reached against each peer, in the row's unit.
fn limits(measured: &Measured) -> impl Iterator<Item = (&'static str, f64)> {
    let bounds = measured.row.bounds.iter();
    bounds.filter_map(|bound| match (bound.against, bound.must) {
        (Against::Peer(peer), Some(must)) => Some((peer, must * measured.spread(peer).median)),
        _ => None,
    })
}

/// The question, whose first words may speak of the row before.
fn title(measured: &Measured) -> String {
    format!("{}: {}", measured.row.name, measured.row.question)
}

/// One bar for each contender.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn row(path: &Path, measured: &Measured) -> Drawn {
    let area = canvas(path)?;
    let bars = measured.all.iter().map(|rounds| {
        let spread = measured.spread(rounds.who);
        (rounds.who, spread)
    });
    let bars = bars.collect::<Vec<_>>();
    let top = bars.iter().map(|(_, spread)| spread.max);
    let top = top.fold(f64::MIN_POSITIVE, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(&area)
        .caption(title(measured), (FONT, 14))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..bars.len() as f64 + MARGIN, 0.0..top)?;
    let name = |x: &f64| bars.get(*x as usize).map_or("", |(who, _)| who).to_owned();
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .x_labels(0)
        .x_label_formatter(&name)
        .y_desc(measured.row.unit)
        .y_label_formatter(&|value| place(*value))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (at, (who, spread)) in bars.iter().enumerate() {
        let (left, middle) = (at as f64, at as f64 + 0.5);
        let colour = if *who == "mainstay" { OURS } else { THEIRS };
        let bar = [(left + 0.2, 0.0), (left + 0.8, spread.median)];
        let line = vec![(middle, spread.min), (middle, spread.max)];
        let label = format!("{who}  {}", short(spread.median));
        let above = (left + 0.2, spread.max + top * 0.06);
        chart.draw_series([Rectangle::new(bar, colour.filled())])?;
        chart.draw_series([PathElement::new(line, BLACK)])?;
        chart.draw_series([Text::new(label, above, (FONT, 13))])?;
    }
    let width = bars.len() as f64;
    for (peer, limit) in limits(measured).filter(|(_, limit)| *limit < top) {
        let across = vec![(0.0, limit), (width + MARGIN, limit)];
        chart.draw_series([PathElement::new(across, LIMIT.stroke_width(1))])?;
        let style = (FONT, 11).into_font().color(&LIMIT);
        let text = format!("must ({peer})");
        let label = Text::new(text, (width, limit + top * 0.045), style);
        chart.draw_series([label])?;
    }
    Ok(area.present()?)
}

/// One line for each series that is no memory.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn curve(path: &Path, grown: &Grown) -> Drawn {
    let area = canvas(path)?;
    let lines = grown.series.iter();
    let lines = lines.filter(|series| !series.name.ends_with("_mib"));
    let lines = lines.collect::<Vec<_>>();
    let points = || lines.iter().flat_map(|series| &series.points);
    let top = points().map(|point| point.1.max);
    let top = top.fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let places = lines.first().map_or(&[][..], |series| &series.points);
    let last = i32::try_from(places.len()).expect("a few") - 1;
    let name = |at: &i32| {
        let found = usize::try_from(*at).ok().and_then(|at| places.get(at));
        found.map_or(String::new(), |(x, _)| place(*x))
    };
    let mut chart = ChartBuilder::on(&area)
        .caption(grown.curve.question, (FONT, 15))
        .margin(12)
        .margin_right(30)
        .x_label_area_size(42)
        .y_label_area_size(90)
        .build_cartesian_2d(0..last, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(places.len())
        .x_desc(grown.curve.x)
        .y_desc(grown.curve.y)
        .x_label_formatter(&name)
        .y_label_formatter(&|value| place(*value))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (series, colour) in lines.iter().zip(LINES) {
        let spreads = || (0..).zip(series.points.iter().map(|(_, spread)| spread));
        let medians = || spreads().map(|(at, spread)| (at, spread.median));
        let line = LineSeries::new(medians(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(series.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 14, y)], colour));
        chart.draw_series(medians().map(|point| Circle::new(point, 3, colour.filled())))?;
        let reach = spreads().map(|(at, spread)| vec![(at, spread.min), (at, spread.max)]);
        chart.draw_series(reach.map(|ends| PathElement::new(ends, BLACK)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(16)
        .background_style(WHITE)
        .border_style(THEIRS)
        .draw()?;
    Ok(area.present()?)
}
