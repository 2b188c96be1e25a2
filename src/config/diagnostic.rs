//! The mistakes of a file, and how they are shown: each with its place underlined.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A range of bytes in the text.
pub(super) type Span = Range<usize>;

/// Every mistake of one file, ordered by place. `Display` shows them without colour.
#[derive(Debug)]
pub struct Diagnostics {
    origin: PathBuf,
    /// The text with its secrets masked, so that an underlined line never shows one.
    text: String,
    mistakes: Vec<Mistake>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Absent where the file as a whole is meant.
    span: Option<Span>,
    message: String,
    label: Option<String>,
    related: Vec<(Span, String)>,
    help: Option<String>,
    /// Says that something is absent, which a syntax error elsewhere may have caused.
    pub(super) is_absence: bool,
}

impl Mistake {
    pub(super) fn at(span: Span, message: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            message: message.into(),
            label: None,
            related: Vec::new(),
            help: None,
            is_absence: false,
        }
    }

    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, ..Self::at(0..0, message) }
    }

    /// Words beside the underline.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// A line below that says what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A second place that is part of the mistake.
    pub(super) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(super) fn absence(mut self) -> Self {
        self.is_absence = true;
        self
    }

    pub(super) fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Diagnostics {
    /// Orders the mistakes by place. `masked` are the ranges that hold secrets.
    pub(super) fn new(origin: &Path, text: &str, masked: &[Span], mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.span.as_ref().map_or(0, |span| span.start));
        mistakes.dedup();
        Self { origin: origin.to_owned(), text: mask(text, masked), mistakes }
    }

    /// The mistakes, ordered by place; never empty.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The mistake's line and column, both counted from 1, the column in characters.
    pub fn position(&self, mistake: &Mistake) -> Option<(usize, usize)> {
        mistake.span.as_ref().map(|span| position(&self.text, span.start))
    }

    /// All mistakes and a summary line, as rustc would show them.
    pub fn render(&self, has_colour: bool) -> String {
        let renderer = if has_colour { Renderer::styled() } else { Renderer::plain() };
        let origin = self.origin.display().to_string();
        let mut shown: Vec<String> =
            self.mistakes.iter().map(|mistake| renderer.render(&[self.group(&origin, mistake)])).collect();
        let count = match self.mistakes.len() {
            1 => "1 mistake".to_owned(),
            n => format!("{n} mistakes"),
        };
        let summary = Level::ERROR.primary_title(format!("`{origin}` has {count}"));
        shown.push(renderer.render(&[Group::with_title(summary)]));
        shown.join("\n\n") + "\n"
    }

    fn group<'a>(&'a self, origin: &'a str, mistake: &'a Mistake) -> Group<'a> {
        let title = Level::ERROR.primary_title(mistake.message.as_str());
        let Some(span) = &mistake.span else { return Group::with_title(title) };
        let place = AnnotationKind::Primary.span(fit(&self.text, span)).label(mistake.label.as_deref());
        let mut snippet = Snippet::source(self.text.as_str()).path(origin).annotation(place);
        for (span, label) in &mistake.related {
            snippet = snippet.annotation(AnnotationKind::Context.span(fit(&self.text, span)).label(label.as_str()));
        }
        let group = title.element(snippet);
        match &mistake.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Line and column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(byte)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The span, cut to what the renderer can underline: whole characters of the text, of the first line only.
fn fit(text: &str, span: &Span) -> Span {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.max(start));
    let line_end = text[start..].find(['\r', '\n']).map_or(text.len(), |length| start + length);
    start..end.min(line_end)
}

/// Replaces each byte of the ranges by `*`: every other byte keeps its place.
fn mask(text: &str, masked: &[Span]) -> String {
    let mut bytes = text.as_bytes().to_owned();
    for span in masked {
        let hidden = &mut bytes[text.floor_char_boundary(span.start)..text.ceil_char_boundary(span.end)];
        hidden.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b'*');
    }
    // Whole characters were replaced by whole characters, so the text is still UTF-8.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostics(text: &str, masked: &[Span], mistakes: Vec<Mistake>) -> Diagnostics {
        Diagnostics::new(Path::new("a.toml"), text, masked, mistakes)
    }

    #[test]
    fn mistakes_are_shown_by_place_and_counted() {
        let shown = diagnostics("a = 1\nb = 2\n", &[], vec![Mistake::at(6..7, "second"), Mistake::at(0..1, "first")])
            .to_string();
        assert!(shown.find("a.toml:1:1").unwrap() < shown.find("a.toml:2:1").unwrap(), "{shown}");
        assert!(shown.ends_with("`a.toml` has 2 mistakes\n"), "{shown}");
    }

    #[test]
    fn a_masked_range_is_never_shown_and_moves_nothing() {
        let text = "s = \"hünter2\", b = 1";
        let secret = 4..14;
        let shown = diagnostics(text, std::slice::from_ref(&secret), vec![Mistake::at(16..17, "here")]);
        assert!(!shown.to_string().contains("nter2"), "{shown}");
        assert_eq!(shown.text.len(), text.len());
    }

    #[test]
    fn a_span_past_the_end_or_inside_a_character_is_shown() {
        for span in [0..900, 900..901, 1..2, 3..3] {
            diagnostics("ä=ö\n", &[], vec![Mistake::at(span, "odd")]).to_string();
        }
        diagnostics("", &[], vec![Mistake::at(0..0, "empty")]).to_string();
    }
}
