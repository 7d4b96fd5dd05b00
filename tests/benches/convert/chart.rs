//! A bar chart as SVG: plain, readable on light and dark pages.

/// One bar.
pub struct Bar {
    pub set: String,
    pub engine: String,
    /// MB/s.
    pub rate: f64,
}

const ROW: usize = 22;
const GAP: usize = 14;
const LEFT: usize = 210;
const WIDTH: usize = 480;

/// The chart of bars that are given set by set.
pub fn svg(bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.rate).fold(1.0, f64::max);
    let (mut body, mut y, mut set) = (String::new(), 10, "");
    for bar in bars {
        if bar.set != set {
            set = &bar.set;
            y += GAP;
            body += &format!("<text x=\"0\" y=\"{}\" font-weight=\"bold\">{set}</text>\n", y + 12);
        }
        let width = bar.rate / longest * WIDTH as f64;
        let colour = if bar.engine.starts_with(super::OURS) { "#d2691e" } else { "#7a8ca0" };
        body += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"{}\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"{}\">{:.0}</text>\n",
            LEFT - 8,
            y + 12,
            bar.engine,
            ROW - 6,
            LEFT as f64 + width + 6.0,
            y + 12,
            bar.rate
        );
        y += ROW;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\" \
         fill=\"#808890\">\n<title>NDJSON to Parquet, MB/s of input</title>\n{body}</svg>\n",
        LEFT + WIDTH + 60,
        y + 10
    )
}
