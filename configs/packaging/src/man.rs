//! From the Markdown of docs/ to a man page.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

/// The page `name`(`section`). The first heading and the paragraph below it become NAME and
/// DESCRIPTION; a table becomes a list of its rows.
pub(crate) fn page(name: &str, section: &str, markdown: &str) -> String {
    let mut page = Page::default();
    page.roff.control("TH", [name, section, "", "nhrpd", "Overlay network"]);
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.event(event, name);
    }
    page.roff.render()
}

#[derive(Default)]
struct Page {
    roff: Roff,
    line: Vec<Inline>,
    heading: String,
    /// Cells of the row that is read; `None` outside of tables.
    row: Option<Vec<Vec<Inline>>>,
    bold: bool,
    italic: bool,
    code: bool,
    item: bool,
}

impl Page {
    fn event(&mut self, event: Event<'_>, name: &str) {
        match event {
            Event::Start(Tag::Heading { .. }) => self.heading.clear(),
            Event::End(TagEnd::Heading(level)) => self.end_heading(level, name),
            Event::Start(Tag::TableHead | Tag::TableRow) => self.row = Some(Vec::new()),
            Event::End(TagEnd::TableCell) => {
                let cell = std::mem::take(&mut self.line);
                self.row.get_or_insert_default().push(cell);
            }
            Event::End(TagEnd::TableHead) => self.row = None,
            Event::End(TagEnd::TableRow) => self.end_row(),
            Event::Start(Tag::Item) => self.item = true,
            Event::End(TagEnd::Item | TagEnd::Paragraph) => self.end_paragraph(),
            Event::Start(Tag::CodeBlock(_)) => {
                self.end_paragraph();
                self.code = true;
                self.roff.control("PP", []).control("RS", ["4"]).control("nf", []);
            }
            Event::End(TagEnd::CodeBlock) => {
                self.code = false;
                self.roff.control("fi", []).control("RE", []);
            }
            Event::Start(Tag::Strong) => self.bold = true,
            Event::End(TagEnd::Strong) => self.bold = false,
            Event::Start(Tag::Emphasis) => self.italic = true,
            Event::End(TagEnd::Emphasis) => self.italic = false,
            Event::Code(text) => self.word(&text, true),
            Event::Text(text) if self.code => {
                self.roff.text([roman(text.trim_end_matches('\n'))]);
            }
            Event::Text(text) => self.word(&text, self.bold),
            Event::SoftBreak | Event::HardBreak => self.line.push(roman(" ")),
            _ => {}
        }
    }

    fn word(&mut self, text: &str, strong: bool) {
        self.heading.push_str(text);
        self.line.push(match (strong, self.italic) {
            (true, _) => bold(text),
            (false, true) => italic(text),
            (false, false) => roman(text),
        });
    }

    fn end_heading(&mut self, level: HeadingLevel, name: &str) {
        self.line.clear();
        let heading = std::mem::take(&mut self.heading);
        match level {
            HeadingLevel::H1 => {
                let what = format!("{name} - {} of nhrpd", heading.to_lowercase());
                self.roff.control("SH", ["NAME"]).text([roman(what)]);
                self.roff.control("SH", ["DESCRIPTION"]);
            }
            HeadingLevel::H2 => {
                self.roff.control("SH", [heading.to_uppercase().as_str()]);
            }
            _ => {
                self.roff.control("SS", [heading.as_str()]);
            }
        }
    }

    fn end_paragraph(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return;
        }
        match std::mem::take(&mut self.item) {
            true => self.roff.control("IP", ["\\(bu", "2"]),
            false => self.roff.control("PP", []),
        };
        self.roff.text(line);
    }

    /// The first cell is the tag, the last the text, one between them the default.
    fn end_row(&mut self) {
        let mut cells = self.row.take().unwrap_or_default().into_iter();
        let (Some(tag), Some(text)) = (cells.next(), cells.next_back()) else { return };
        self.roff.control("TP", []).text(tag);
        let mut line = Vec::new();
        for default in cells {
            line.push(roman("("));
            if default.first() != Some(&roman("required")) {
                line.push(roman("default: "));
            }
            line.extend(default);
            line.push(roman(") "));
        }
        line.extend(text);
        self.roff.text(line);
    }
}
