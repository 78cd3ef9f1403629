//! The two plots of a group as SVG elements for the page: throughput by connections, and the distribution of latencies.
//!
//! plotters draws axes, lines and marks. This module adds alternative text and tooltips around the drawing. plotters
//! writes colours as attributes; the page's style sheet overrides them by value, so that one drawing fits a light and a
//! dark page. Each subject also has its own mark, so colour is never the only difference.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use super::figures::{Figures, Group, ORDER, number};
use super::name;
use crate::results::{Series, Who};

/// Size of the drawing in its own units. The page shows it at half of that or less, so rounding to whole units is
/// invisible.
const SIZE: (u32, u32) = (1_120, 720);
const FONT: (&str, i32) = ("sans-serif", 34);
const LINE: u32 = 5;
const MARK: i32 = 10;
/// Horizontal factor between marks at the same number of connections, so that their whiskers do not overlap.
const ASIDE: f64 = 1.05;
/// Radius of the area that shows a tooltip.
const TARGET: u32 = 26;

/// Number of connections whose latencies are shown, if they were measured.
pub const SHOWN_CONNECTIONS: u32 = 32;

/// The distribution ends at the slowest request in this many, if there are as many: 99.99 %.
const RAREST: f64 = 10_000.0;
/// Points of a percentile curve.
const STEPS: u32 = 120;
/// Percentiles with a tick, a mark and a tooltip, as the number of requests of which one exceeds the latency.
const MARKED: [(f64, &str); 5] = [(2.0, "50"), (10.0, "90"), (100.0, "99"), (1_000.0, "99.9"), (10_000.0, "99.99")];

/// The style sheet replaces these three colours.
const INK: RGBColor = RGBColor(0x11, 0x11, 0x11);
const AXIS: RGBColor = RGBColor(0x88, 0x88, 0x88);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// From the palette of Okabe and Ito, which colour-blind readers can distinguish. The style sheet has the same values.
pub fn colour(who: Who) -> RGBColor {
    match who {
        Who::Yardstick => RGBColor(0x77, 0x77, 0x77),
        Who::Advisory => RGBColor(0x00, 0x72, 0xb2),
        Who::Actors => RGBColor(0xd5, 0x5e, 0x00),
        Who::Generator => RGBColor(0x00, 0x9e, 0x73),
    }
}

/// One plot for the page.
pub struct Plot {
    pub title: String,
    pub svg: Markup,
}

/// The mark of `who` for a legend.
pub fn swatch(who: Who) -> Markup {
    let size = (60, 34);
    let drawing = draw(size, |area, _| {
        let middle = (size.0 as i32 / 2, size.1 as i32 / 2);
        let line = [(0, middle.1), (size.0 as i32, middle.1)];
        area.draw(&PathElement::new(line, colour(who).stroke_width(LINE)))?;
        area.draw(&mark(who, middle))
    });
    html! { svg.swatch viewBox={ "0 0 " (size.0) " " (size.1) } aria-hidden="true" { (drawing) } }
}

/// Rate by connections: the median of the rounds, with a whisker from the slowest to the fastest.
pub fn throughput(group: &Group) -> Plot {
    let title = format!("Throughput, {}", group.unit);
    let lines: Vec<(Who, Vec<Figures>)> = group.who().map(|who| (who, group.line(who))).collect();
    let connections: Vec<f64> = group.rows.iter().map(|row| f64::from(row.connections)).collect();
    let first = connections.first().copied().unwrap_or(1.0);
    let last = connections.last().copied().unwrap_or(1.0);
    let fastest = lines.iter().flat_map(|(_, line)| line).map(|figures| *figures.rates.end()).fold(0.0, f64::max);
    let top = if fastest > 0.0 { fastest * 1.08 } else { 1.0 };

    let drawing = draw(SIZE, |area, tips| {
        let mut chart = builder(area, 170)
            .build_cartesian_2d((first / 1.3..last * 1.3).log_scale().with_key_points(connections.clone()), 0.0..top)?;
        mesh(&mut chart, "connections", group.unit, &|x| tick(*x), &|y| tick(*y))?;
        for (place, (who, line)) in (0..).zip(&lines) {
            let aside = ASIDE.powf(f64::from(place) - (lines.len() as f64 - 1.0) / 2.0);
            let x_of = |figures: &Figures| f64::from(figures.series.connections) * aside;
            let style = colour(*who).stroke_width(LINE);
            let points = line.iter().map(|figures| (x_of(figures), figures.rate));
            chart.draw_series(LineSeries::new(points, style))?;
            for figures in line {
                let x = x_of(figures);
                let (low, high) = (*figures.rates.start(), *figures.rates.end());
                let whisker = ErrorBar::new_vertical(x, low, figures.rate, high, colour(*who).stroke_width(3), 18);
                chart.draw_series([whisker])?;
                let at = chart.backend_coord(&(x, figures.rate));
                area.draw(&mark(*who, at))?;
                tips.push((at, rate_tip(*who, figures, group.unit)));
            }
        }
        Ok(())
    });
    Plot { svg: frame(&title, group, drawing), title }
}

fn rate_tip(who: Who, figures: &Figures, unit: &str) -> String {
    let (low, high) = (number(*figures.rates.start()), number(*figures.rates.end()));
    let connections = figures.series.connections;
    let mut tip =
        format!("{}, {connections} connections: {} {unit} (rounds {low} to {high})", name(who), number(figures.rate));
    if let Some(ratio) = figures.ratio {
        write!(tip, ", {ratio:.2} of the yardstick").expect("a string takes everything");
    }
    tip
}

/// Latency by percentile: all rounds together as a line, the rounds' range as a band. `None` if no latencies were
/// recorded.
pub fn latency(group: &Group) -> Option<Plot> {
    let row = group.row_at(SHOWN_CONNECTIONS)?;
    let curves: Vec<(Who, Curve)> = ORDER.iter().filter_map(|who| Some((*who, Curve::of(row.find(*who)?)?))).collect();
    let points = || curves.iter().flat_map(|(_, curve)| &curve.points);
    let lowest = points().map(|point| point.low).reduce(f64::min)?;
    let highest = points().map(|point| point.high).reduce(f64::max)?;
    let rarest = points().map(|point| point.one_in).fold(10.0, f64::max);
    let title = format!("Latency at {} connections, ms", row.connections);

    let drawing = draw(SIZE, |area, tips| {
        let (bottom, top, ticks) = log_ticks(lowest, highest);
        let marked = MARKED.iter().map(|(one_in, _)| *one_in).filter(|one_in| *one_in <= rarest);
        let mut chart = builder(area, 150).build_cartesian_2d(
            (1.0..rarest * 1.2).log_scale().with_key_points(marked.collect()),
            (bottom..top).log_scale().with_key_points(ticks),
        )?;
        mesh(&mut chart, "percentile of the requests", "ms", &|x| percentile(*x), &|y| tick(*y))?;
        for (who, curve) in &curves {
            let band = curve.points.iter().map(|point| (point.one_in, point.high));
            let back = curve.points.iter().rev().map(|point| (point.one_in, point.low));
            chart.draw_series([Polygon::new(band.chain(back).collect::<Vec<_>>(), colour(*who).mix(0.18))])?;
        }
        for (who, curve) in &curves {
            let line = curve.points.iter().map(|point| (point.one_in, point.all));
            chart.draw_series(LineSeries::new(line, colour(*who).stroke_width(LINE)))?;
            for (one_in, percentile) in MARKED {
                let Some(point) = curve.at(one_in) else { continue };
                let at = chart.backend_coord(&(point.one_in, point.all));
                area.draw(&mark(*who, at))?;
                let (low, high) = (number(point.low), number(point.high));
                tips.push((
                    at,
                    format!("{}, {percentile} %: {} ms (rounds {low} to {high})", name(*who), number(point.all)),
                ));
            }
        }
        Ok(())
    });
    Some(Plot { svg: frame(&title, group, drawing), title })
}

/// A distribution by percentile, in milliseconds.
struct Curve {
    points: Vec<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    /// Number of requests of which one took longer.
    one_in: f64,
    /// All rounds together.
    all: f64,
    /// The best and the worst round.
    low: f64,
    high: f64,
}

impl Curve {
    /// The distribution is limited by the number of requests: one in a thousand needs a thousand.
    fn of(series: &Series) -> Option<Self> {
        let rounds: Vec<Counts> = series.samples.iter().map(|sample| Counts::new(sample.latency.clone())).collect();
        let all = Counts::new(series.samples.iter().flat_map(|sample| sample.latency.iter().copied()).collect());
        let rarest = (all.total as f64).min(RAREST);
        if all.total == 0 {
            return None;
        }
        // Evenly spaced on the logarithmic axis, and exact at the marks.
        let mut at: Vec<f64> = (0..=STEPS).map(|step| rarest.powf(f64::from(step) / f64::from(STEPS))).collect();
        at.extend(MARKED.iter().map(|(one_in, _)| *one_in).filter(|one_in| *one_in <= rarest));
        at.sort_by(f64::total_cmp);
        let points = at.into_iter().filter_map(|one_in| {
            let share = 1.0 - 1.0 / one_in;
            let of_rounds = rounds.iter().filter_map(|round| round.quantile(share));
            let (low, high) = of_rounds.fold((f64::MAX, 0.0_f64), |(low, high), ms| (low.min(ms), high.max(ms)));
            Some(Point { one_in, all: all.quantile(share)?, low, high })
        });
        Some(Self { points: points.collect() })
    }

    fn at(&self, one_in: f64) -> Option<Point> {
        self.points.iter().find(|point| point.one_in == one_in).copied()
    }
}

/// Latencies as (upper bound in µs, count), ascending.
struct Counts {
    buckets: Vec<(u64, u64)>,
    total: u64,
}

impl Counts {
    fn new(mut buckets: Vec<(u64, u64)>) -> Self {
        buckets.sort_unstable();
        // Equal buckets of several rounds are merged.
        buckets.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 += if same { later.1 } else { 0 };
            same
        });
        let total = buckets.iter().map(|(_, count)| count).sum();
        Self { buckets, total }
    }

    /// The latency in ms that this share of the requests did not exceed, interpolated linearly within a bucket.
    fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.total as f64 * share).max(1.0);
        // The first bucket's lower bound is not known.
        let mut lower_us = self.buckets.first()?.0;
        let mut seen = 0;
        for &(upper_us, count) in &self.buckets {
            if (seen + count) as f64 >= wanted {
                let within = (wanted - seen as f64) / count as f64;
                let us = lower_us as f64 + (upper_us - lower_us) as f64 * within;
                // A log scale has no zero.
                return Some(us.max(1.0) / 1_000.0);
            }
            (seen, lower_us) = (seen + count, upper_us);
        }
        None
    }
}

/// The label of a round figure.
fn tick(figure: f64) -> String {
    let text = number(figure);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The label of a percentile's tick.
fn percentile(one_in: f64) -> String {
    let marked = MARKED.iter().find(|(marked, _)| *marked == one_in);
    marked.map_or_else(String::new, |(_, percentile)| format!("{percentile}%"))
}

/// Ends and ticks of a logarithmic axis: 1, 2 and 5 of each decade, or only powers of ten if that is too many.
fn log_ticks(lowest: f64, highest: f64) -> (f64, f64, Vec<f64>) {
    let (bottom, top) = (lowest / 1.15, highest * 1.15);
    let steps: &[f64] = if top / bottom > 500.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let decades = bottom.log10().floor() as i32..=top.log10().ceil() as i32;
    let ticks = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
    (bottom, top, ticks.filter(|tick| (bottom..=top).contains(tick)).collect())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;
/// Position and text of a tooltip.
type Tips = Vec<((i32, i32), String)>;

/// The drawing of plotters without its own frame, and the tooltips above it.
fn draw(size: (u32, u32), content: impl FnOnce(&Area, &mut Tips) -> Drawn) -> Markup {
    let mut text = String::new();
    let mut tips = Tips::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        content(&area, &mut tips).and_then(|()| area.present()).expect("drawing into a string does not fail");
    }
    let inside = text.find('>').map(|end| &text[end + 1..]).and_then(|text| text.rsplit_once("</svg>"));
    let (inside, _) = inside.expect("plotters wraps a drawing into one svg element");
    html! {
        (PreEscaped(inside))
        @for ((x, y), tip) in tips {
            circle.tip cx=(x) cy=(y) r=(TARGET) { title { (tip) } }
        }
    }
}

fn frame(title: &str, group: &Group, drawing: Markup) -> Markup {
    let label = format!("{title}: {} {}", group.scenario, group.variant);
    html! {
        svg.plot viewBox={ "0 0 " (SIZE.0) " " (SIZE.1) } role="img" aria-label=(label.trim_end()) { (drawing) }
    }
}

fn builder<'a, 'b>(area: &'a Area<'b>, left: u32) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(20).margin_right(40).x_label_area_size(92).y_label_area_size(left);
    builder
}

fn mesh<'a, X: Ranged<ValueType = f64> + ValueFormatter<f64>, Y: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    x: &str,
    y: &str,
    format_x: &dyn Fn(&f64) -> String,
    format_y: &dyn Fn(&f64) -> String,
) -> Drawn {
    let text = FONT.into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(x)
        .y_desc(y)
        .y_labels(7)
        .max_light_lines(0)
        .x_label_formatter(format_x)
        .y_label_formatter(format_y)
        .axis_style(AXIS.stroke_width(2))
        .bold_line_style(GRID.stroke_width(2))
        .label_style(text.clone())
        .axis_desc_style(text)
        .draw()
}

/// The shape of each subject's mark.
fn mark<'a>(who: Who, at: (i32, i32)) -> DynElement<'a, SVGBackend<'a>, (i32, i32)> {
    let filled = colour(who).filled();
    match who {
        Who::Yardstick => Rectangle::new([(at.0 - MARK, at.1 - MARK), (at.0 + MARK, at.1 + MARK)], filled).into_dyn(),
        Who::Advisory => Circle::new(at, MARK, filled).into_dyn(),
        Who::Actors => TriangleMarker::new(at, MARK + 4, filled).into_dyn(),
        Who::Generator => Cross::new(at, MARK, colour(who).stroke_width(LINE)).into_dyn(),
    }
}
