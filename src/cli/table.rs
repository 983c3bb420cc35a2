//! Text in columns.

/// `rows` with each column as wide as its widest cell, two blanks between, `indent` before.
pub(crate) fn columns<const N: usize>(indent: &str, rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [["a", "bcd", "e"], ["fg", "", "h"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(" ", &rows), " a   bcd  e\n fg       h\n");
    }
}
