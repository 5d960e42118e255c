//! Plots for the docs: a frame with a scale, and curves in it.
//!
//! Written as text: a plot is a dozen lines and must look the same wherever it was made.

use std::fmt::Write as _;

/// In pixels: the plot's own height, and what is around it.
const HEIGHT: f64 = 220.0;
pub(super) const LEFT: f64 = 70.0;
const TOP: f64 = 56.0;
const RIGHT: f64 = 18.0;
/// Title and legend need so much, however narrow the plot is.
const WIDTH_MIN: f64 = 560.0;
/// Told apart by people who see no red or green too, on light and dark pages.
pub(super) const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#cc79a7", "#999999"];
/// Of a plot of curves, and what is below it.
const CURVES_WIDTH: f64 = 420.0;
const CURVES_BOTTOM: f64 = 44.0;
/// Numbers on the lower axis are at least this far from each other.
const LABEL: f64 = 24.0;

/// A plot with its title, legend and horizontal lines.
pub(super) struct Frame {
    svg: String,
    top: f64,
}

impl Frame {
    /// `width` pixels between the axis and the right, `below` pixels under the plot; `most` is the largest value.
    pub(super) fn new(title: &str, names: &[&str], (width, below): (f64, f64), most: f64) -> Self {
        let step = step(most);
        let top = (most / step).ceil() * step;
        let (right, height) = (LEFT + width, TOP + HEIGHT + below);
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{RIGHT}\" y=\"20\" font-size=\"14\">{title}</text>\n",
            (right + RIGHT).max(WIDTH_MIN)
        );
        let mut frame = Self { svg, top };
        for (number, name) in names.iter().enumerate() {
            let x = RIGHT + 130.0 * number as f64;
            let (colour, beside) = (COLOURS[number % COLOURS.len()], x + 14.0);
            frame.draw(format_args!(
                "<rect x=\"{x}\" y=\"30\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{beside}\" y=\"39\">{name}</text>"
            ));
        }
        let digits = usize::from(step < 1.0);
        let lines = (0_u32..).map(|number| f64::from(number) * step);
        for value in lines.take_while(|value| *value <= top * 1.001) {
            let (y, beside) = (frame.y(value), LEFT - 6.0);
            frame.draw(format_args!(
                "<line x1=\"{LEFT}\" x2=\"{right:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{beside}\" y=\"{:.1}\" text-anchor=\"end\">{value:.digits$}</text>",
                y + 4.0
            ));
        }
        frame
    }

    /// Where a value is.
    pub(super) fn y(&self, value: f64) -> f64 {
        TOP + HEIGHT - value / self.top * HEIGHT
    }

    /// The lower edge.
    pub(super) fn floor(&self) -> f64 {
        self.y(0.0)
    }

    /// Adds an element.
    pub(super) fn draw(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.svg, "{element}");
    }

    /// The whole of it.
    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Curves over one axis from 0 on: a name, and a value at each of `xs`.
pub(super) fn curves(title: &str, below: &str, xs: &[f64], curves: &[(&str, Vec<f64>)]) -> String {
    let highest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let most = highest(&curves.iter().map(|(_, ys)| highest(ys)).collect::<Vec<_>>());
    let names: Vec<&str> = curves.iter().map(|(name, _)| *name).collect();
    let mut frame = Frame::new(
        title,
        &names,
        (CURVES_WIDTH, CURVES_BOTTOM),
        most.max(f64::MIN_POSITIVE),
    );
    let farthest = highest(xs).max(f64::MIN_POSITIVE);
    let across = |x: f64| LEFT + x / farthest * CURVES_WIDTH;
    let floor = frame.floor();
    // From the right: the largest is the one to be read.
    let mut free = f64::INFINITY;
    for x in xs.iter().rev() {
        let middle = across(*x);
        if middle > free {
            continue;
        }
        free = middle - LABEL;
        frame.draw(format_args!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>",
            floor + 16.0
        ));
    }
    frame.draw(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{below}</text>",
        across(farthest / 2.0),
        floor + 34.0
    ));
    for (number, (_, ys)) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> = xs
            .iter()
            .zip(ys)
            .map(|(x, y)| (across(*x), frame.y(*y)))
            .collect();
        let line: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        frame.draw(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.join(" ")
        ));
        for (x, y) in points {
            frame.draw(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            ));
        }
    }
    frame.finish()
}

/// Between two lines: 1, 2 or 5 times a power of ten, so that there are four to ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let of = |times: f64| times * power;
    [5.0, 2.0]
        .into_iter()
        .map(of)
        .find(|step| most / step >= 4.0)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_four_to_eleven_lines() {
        for most in [0.4, 1.0, 3.7, 13_516.0, 99_999.0] {
            let lines = most / step(most);
            assert!((4.0..=10.1).contains(&lines), "{most}: {lines}");
        }
    }

    #[test]
    fn a_curve_begins_at_its_axis_and_ends_below_the_top() {
        let svg = curves("t", "x", &[0.0, 10.0], &[("one", vec![0.0, 9.0])]);
        assert!(svg.contains("points=\"70.0,276.0 490.0,78.0\""), "{svg}");
        assert!(svg.ends_with("</svg>\n"));
    }
}
