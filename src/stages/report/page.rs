//! The HTML page. It is self-contained. Start at [`page`].

use super::html::escape;
use super::numbers::Numbers;
use crate::dataset::FileInfo;

/// A section of the page.
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// Figures, tables and sentences.
    pub html: String,
    /// Tables stored beside the page.
    pub files: Vec<FileInfo>,
}

impl Section {
    /// Creates a section without tables of its own.
    pub fn new(title: &'static str, html: String) -> Self {
        Section { title, html, files: Vec::new() }
    }
}

/// Returns a paragraph of text.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// Returns a figure: its HTML, a caption in plain text, and the numbers it is drawn from.
pub fn figure(body: &str, caption: &str, numbers: &[Numbers]) -> String {
    let numbers: String = numbers.iter().map(Numbers::html).collect();
    format!("<figure>\n<figcaption>{}</figcaption>\n{body}\n{numbers}</figure>\n", escape(caption))
}

/// Returns small figures side by side, up to three in a row.
pub fn grid(figures: &[String]) -> String {
    format!("<div class=\"grid\">\n{}</div>\n", figures.concat())
}

/// Returns wide figures side by side, up to two in a row.
pub fn halves(figures: &[String]) -> String {
    format!("<div class=\"grid halves\">\n{}</div>\n", figures.concat())
}

/// Returns a legend of names and colours.
pub fn legend(entries: &[(String, String)]) -> String {
    let entry = |(name, colour): &(String, String)| {
        format!("<span><i style=\"background:{colour}\"></i>{}</span>", escape(name))
    };
    format!("<div class=\"legend\">{}</div>", entries.iter().map(entry).collect::<String>())
}

/// Returns the whole page.
pub fn page(pipeline: &str, sections: &[Section]) -> String {
    let anchor = |title: &str| title.to_lowercase().replace(' ', "-");
    let links = sections.iter().map(|section| {
        format!("<a href=\"#{}\">{}</a>", anchor(section.title), escape(section.title))
    });
    let bodies = sections.iter().map(|section| {
        format!(
            "<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n",
            anchor(section.title),
            escape(section.title),
            section.html
        )
    });
    let name = escape(pipeline);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{name}: lapo report</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{name}</h1>\n\
         <p>The latent actions of these frames, and their evaluation. Made by lapo {version}. \
         Below each figure is the query for its numbers; add <code>--workspace</code> with this \
         page's workspace to run it.</p>\n<nav>{}</nav>\n</header>\n\
         <main>\n{}</main>\n</body>\n</html>\n",
        links.collect::<String>(),
        bodies.collect::<String>()
    )
}

const STYLE: &str = "\
:root { --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb;
  --paper: #fff; --ground: #f6f7f9; --accent: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, \"Segoe UI\", Roboto, sans-serif; }
header, main { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { margin: 0 0 4px; font-size: 28px; letter-spacing: -0.01em; }
h2 { margin: 0 0 10px; font-size: 19px; }
h3 { margin: 18px 0 6px; font-size: 15px; }
p { margin: 0 0 10px; max-width: 80ch; }
header p, .note { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 12px 0 20px; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
section { background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; padding: 20px 22px; margin: 0 0 20px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr));
  gap: 22px 28px; align-items: start; }
.halves { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
figure { margin: 0 0 18px; min-width: 0; }
.grid figure { margin: 0; }
figcaption { font-weight: 600; margin-bottom: 4px; }
svg { display: block; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px;
  font-size: 13px; color: var(--soft); margin: 4px 0; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 50%;
  margin-right: 5px; }
.sql { margin: 6px 0 2px; padding: 6px 8px; background: var(--ground);
  border-radius: 6px; color: var(--soft);
  font: 11px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details { font-size: 13px; color: var(--soft); overflow-x: auto; }
summary { cursor: pointer; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums;
  color: var(--ink); }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
code { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.wide { overflow-x: auto; }
.px { image-rendering: pixelated; display: block; border-radius: 3px;
  outline: 1px solid var(--line); outline-offset: -1px; }
.pairs { display: flex; flex-wrap: wrap; gap: 16px 22px; }
.strip { display: flex; gap: 4px; }
.strip + div, .tag { font-size: 12px; color: var(--soft); }
.rollout .strip { margin: 4px 0; }
.rollout .px { flex: 1 1 0; min-width: 0; height: auto; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_never_markup() {
        let html = page("<b>&\"'", &[Section::new("What ran", paragraph("a < b & c"))]);
        assert!(
            html.contains("<h1>&lt;b&gt;&amp;&quot;&#39;</h1>")
                && html.contains("<p>a &lt; b &amp; c</p>"),
            "{html}"
        );
        assert!(!html.contains("<b>"));
    }
}
