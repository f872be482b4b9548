//! Times, tables and absent values, as Cisco prints them.

use std::fmt::Display;
use std::io;

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, ContentLineStyle, LineStyle, Table,
    TableStyle, Width,
};

/// Columns of the terminal; `None` where standard output is none.
pub(crate) fn terminal_width() -> Option<u16> {
    terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0)
}

/// `00:13:59`, from a day on `1d02h`, from a week on `1w2d`, from a year on `1y3w`.
pub(crate) fn elapsed(seconds: u64) -> String {
    const DAY: u64 = 24 * 3600;
    const WEEK: u64 = 7 * DAY;
    const YEAR: u64 = 365 * DAY;
    match seconds {
        ..DAY => format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        DAY..WEEK => format!("{}d{:02}h", seconds / DAY, seconds % DAY / 3600),
        WEEK..YEAR => format!("{}w{}d", seconds / WEEK, seconds % WEEK / DAY),
        YEAR.. => format!("{}y{}w", seconds / YEAR, seconds % YEAR / WEEK),
    }
}

/// `00:00:12 ago`, or `never`.
pub(crate) fn ago(seconds: Option<u64>) -> String {
    match seconds {
        Some(seconds) => format!("{} ago", elapsed(seconds)),
        None => "never".to_owned(),
    }
}

/// The value, or `-`.
pub(crate) fn or_dash(value: Option<impl Display>) -> String {
    match value {
        Some(value) => value.to_string(),
        None => "-".to_owned(),
    }
}

/// `s` for all counts but one.
pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Text in a style; where the output is no terminal, `anstream` takes the style out again.
pub(crate) fn painted(style: anstyle::Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Alignment of a column.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// The last column does not become narrower than this.
const NARROWEST: u16 = 12;

/// Headers with a dashed line below, columns one space apart. Where the terminal is too narrow,
/// the last column wraps; where it is far too narrow, the lines are longer than it is.
pub(crate) fn table(columns: &[Column], rows: Vec<Vec<String>>, width: Option<u16>) -> String {
    const STYLE: TableStyle = {
        let line = ContentLineStyle::none().left(' ').junction(' ');
        let dashes = LineStyle::none().left(' ').fill('-').junction(' ');
        TableStyle::new().header_lines(line).header_separator(dashes).content_lines(line)
    };
    let mut table = Table::new();
    table.load_style(STYLE);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(header) | Column::Right(header) => *header,
    }));
    let cells = rows.iter().filter_map(|row| Some(row.last()?.as_str()));
    let headers = columns.last().map(|(Column::Left(header) | Column::Right(header))| *header);
    let longest = cells.chain(headers).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let longest = u16::try_from(longest).unwrap_or(u16::MAX);
    table.add_rows(rows);
    for (column, spec) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 0));
        column.set_cell_alignment(match spec {
            Column::Left(_) => CellAlignment::Left,
            Column::Right(_) => CellAlignment::Right,
        });
        column.set_constraint(match column.index + 1 < columns.len() {
            true => ColumnConstraint::ContentWidth,
            false => ColumnConstraint::LowerBoundary(Width::Fixed(NARROWEST.min(longest))),
        });
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "00:00:00"),
            (839, "00:13:59"),
            (86_399, "23:59:59"),
            (86_400, "1d00h"),
            (93_600, "1d02h"),
            (604_799, "6d23h"),
            (604_800, "1w0d"),
            (31_535_999, "52w0d"),
            (31_536_000 + 1_900_000, "1y3w"),
        ] {
            assert_eq!(elapsed(seconds), expected);
        }
    }

    #[test]
    fn the_last_column_gives_way() {
        let columns = [Column::Right("A"), Column::Left("Words")];
        let row = |words: &str| vec!["172.16.0.1".to_owned(), words.to_owned()];
        let text = table(&columns, vec![row("four words that wrap"), row("x")], Some(24));
        assert_eq!(
            text,
            concat!(
                "          A Words\n",
                " ---------- ------------\n",
                " 172.16.0.1 four words\n",
                "            that wrap\n",
                " 172.16.0.1 x\n",
            )
        );
        assert!(text.lines().all(|line| line.len() <= 24));
    }

    #[test]
    fn the_last_column_is_never_a_column_of_letters() {
        let columns = [Column::Right("A"), Column::Left("Identity")];
        let row = |identity: &str| vec!["172.16.0.1".to_owned(), identity.to_owned()];
        for (identity, longest) in [("CN=hub", 20), ("CN=spoke3.example.net", 24)] {
            let text = table(&columns, vec![row(identity)], Some(14));
            assert_eq!(text.lines().map(str::len).max(), Some(longest), "{text}");
        }
    }
}
