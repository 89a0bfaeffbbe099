//! A text table that fits a width: empty columns vanish, long names are cut, then the least important column goes.

use crate::format::clean;

/// Plain text, or text with ANSI colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// No escape sequences.
    #[default]
    Plain,
    /// ANSI colours: red for what is wrong, bold for totals, dim for what is secondary.
    Ansi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    None,
    Bold,
    Dim,
    Red,
    Green,
    Cyan,
}

impl Style {
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            _ if self == Style::Plain || text.trim().is_empty() => return text.to_owned(),
            Paint::None => return text.to_owned(),
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Red => "1;31",
            Paint::Green => "32",
            Paint::Cyan => "36",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: clean(text.as_ref()), paint: Paint::None }
    }

    pub(crate) fn paint(mut self, paint: Paint) -> Self {
        self.paint = paint;
        self
    }
}

/// A column. `keep` orders what is dropped when the table is too wide: the lowest first, 9 never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    right: bool,
    keep: u8,
}

pub(crate) const fn left(title: &'static str, keep: u8) -> Column {
    Column { title, right: false, keep }
}

pub(crate) const fn right(title: &'static str, keep: u8) -> Column {
    Column { title, right: true, keep }
}

/// Names are cut to this before anything is dropped...
const NAME_COMFORT: usize = 26;
/// ... and to this before a column goes that is kept longer than [`EXPENDABLE`].
const NAME_MIN: usize = 12;
const EXPENDABLE: u8 = 3;

#[derive(Debug)]
pub(crate) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, to: usize) -> String {
    if width(text) <= to {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(to.saturating_sub(1)).collect();
    out.push('…');
    out
}

impl Grid {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, mut cells: Vec<Cell>) {
        cells.resize_with(self.columns.len(), || Cell::new(""));
        self.rows.push(cells);
    }

    fn column_width(&self, c: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(c)).map(|cell| width(&cell.text));
        cells.max().unwrap_or(0)
    }

    /// Narrows or removes columns until a line fits, or nothing is left that may go.
    fn fit(&self, shown: &mut Vec<(usize, usize)>, limit: usize) {
        while shown.iter().map(|s| s.1 + 1).sum::<usize>() > limit {
            let names = |s: &&mut (usize, usize)| {
                !self.columns[s.0].right && self.columns[s.0].keep == 9 && s.1 > NAME_MIN
            };
            let keep = |s: &(usize, usize)| self.columns[s.0].keep;
            let least = (0..shown.len())
                .filter(|&i| keep(&shown[i]) < 9)
                .min_by_key(|&i| keep(&shown[i]))
                .map(|i| (i, keep(&shown[i])));
            let floor = match least {
                Some((_, keep)) if keep <= EXPENDABLE => NAME_COMFORT,
                _ => NAME_MIN,
            };
            let widest = shown.iter_mut().filter(names).max_by_key(|s| s.1);
            match (widest, least) {
                (Some(name), _) if name.1 > floor => name.1 -= 1,
                (_, Some((i, _))) => drop(shown.remove(i)),
                _ => break,
            }
        }
    }

    /// The table in at most `limit` characters a line, or as few as its unbreakable columns need.
    pub(crate) fn render(&self, limit: usize, style: Style) -> String {
        // (column, width) of what is shown
        let mut shown: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|c| (c, self.column_width(c)))
            .filter(|&(_, w)| w > 0)
            .map(|(c, w)| (c, w.max(width(self.columns[c].title))))
            .collect();
        self.fit(&mut shown, limit);
        let mut out = String::new();
        let titles: Vec<Cell> =
            self.columns.iter().map(|c| Cell::new(c.title).paint(Paint::Dim)).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for &(c, w) in &shown {
                let text = cut(&row[c].text, w);
                let pad = " ".repeat(w - width(&text));
                let painted = style.paint(row[c].paint, &text);
                line.push(' ');
                line +=
                    &if self.columns[c].right { pad + &painted } else { painted + pad.as_str() };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_and_drops_the_least_important_column_first() {
        let mut grid =
            Grid::new(&[left("name", 9), right("x", 9), right("low", 1), right("mid", 5)]);
        grid.row(
            ["a-rather-long-name-of-an-operator", "12", "33333333", "44444444"]
                .map(Cell::new)
                .into(),
        );
        let wide = grid.render(120, Style::Plain);
        assert!(wide.contains("operator") && wide.contains("low"), "{wide}");
        let narrow = grid.render(30, Style::Plain);
        assert!(narrow.lines().all(|l| width(l) <= 30), "{narrow}");
        assert!(
            !narrow.contains("low") && narrow.contains("mid") && narrow.contains('…'),
            "{narrow}"
        );
    }

    #[test]
    fn colours_only_when_asked() {
        let mut grid = Grid::new(&[left("n", 9)]);
        grid.row(vec![Cell::new("x\u{1b}[2J").paint(Paint::Red)]);
        assert!(!grid.render(80, Style::Plain).contains('\u{1b}'));
        assert!(grid.render(80, Style::Ansi).contains("\u{1b}[1;31mx\u{fffd}[2J\u{1b}[0m"));
    }
}
