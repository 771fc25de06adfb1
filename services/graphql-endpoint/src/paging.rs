//! Pages of lists by the GraphQL Cursor Connections specification.

use crate::transaction::{Direction, Transaction};
use juniper::GraphQLObject;
use std::fmt;
use std::str::FromStr;

/// Items of a page without `first` and `last`.
const ITEMS_DEFAULT: i32 = 100;
/// Maximum of `first` and `last`.
const ITEMS_MAX: i32 = 1000;
/// Maximum of rows that a page with a filter examines. No index has the direction, so the page ends
/// there, also with fewer items than requested.
const EXAMINED_MAX: i64 = 2000;

/// The place of a transaction in its account. The list has the highest place first. A transaction
/// keeps its place, so pages are stable while transactions are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub sequence: i64,
    /// Orders transactions whose records lack a sequence.
    pub number: i64,
}

impl Cursor {
    pub const MIN: Self = Self { sequence: i64::MIN, number: i64::MIN };
    pub const MAX: Self = Self { sequence: i64::MAX, number: i64::MAX };
}

impl From<&Transaction> for Cursor {
    fn from(transaction: &Transaction) -> Self {
        Self { sequence: transaction.sequence, number: transaction.number }
    }
}

/// The text of a cursor, which clients do not interpret.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.sequence.cast_unsigned(), self.number.cast_unsigned())
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let part = |hex: &str| u64::from_str_radix(hex, 16).map(u64::cast_signed).map_err(drop);
        let (sequence, number) = text.split_once('-').ok_or(())?;
        Ok(Self { sequence: part(sequence)?, number: part(number)? })
    }
}

/// Which transactions of an account a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Maximum number of transactions.
    pub items_max: i64,
    /// The last ones of the range instead of the first ones.
    pub from_end: bool,
    /// The range is behind this place, so its transactions are older.
    pub after: Option<Cursor>,
    /// The range ends before this place.
    pub before: Option<Cursor>,
    pub direction: Option<Direction>,
}

impl PageRange {
    /// Checks the arguments of a connection. The error is for the client.
    pub fn new(
        first: Option<i32>,
        after: Option<&str>,
        last: Option<i32>,
        before: Option<&str>,
    ) -> Result<Self, String> {
        let (items_max, from_end) = match (first, last) {
            (Some(_), Some(_)) => return Err("send either first or last, not both".to_owned()),
            (None, Some(last)) => (items_max("last", Some(last))?, true),
            (first, None) => (items_max("first", first)?, false),
        };
        let (after, before) = (cursor("after", after)?, cursor("before", before)?);
        Ok(Self { items_max, from_end, after, before, direction: None })
    }

    /// The part of the range from one sequence to before another one, if they are given.
    pub fn within(self, from: Option<i64>, until: Option<i64>) -> Self {
        // The place before all transactions with this sequence.
        let place = |sequence: i64| Cursor { sequence, number: i64::MIN };
        let after = [self.after, until.map(place)].into_iter().flatten().min();
        Self { after, before: self.before.max(from.map(place)), ..self }
    }

    /// What the page costs, in rows that are read. A row that is only examined costs a tenth.
    pub fn cost(&self) -> usize {
        let examined = if self.direction.is_some() { EXAMINED_MAX / 10 } else { 0 };
        self.items_max.max(examined) as usize
    }

    /// Maximum of rows that are examined for the page. Without a filter, the row behind the page
    /// shows whether there are more.
    pub fn rows_max(&self) -> i64 {
        if self.direction.is_some() { EXAMINED_MAX } else { self.items_max + 1 }
    }
}

/// Checks `first` or `last`. The error is for the client.
pub fn items_max(argument: &str, items: Option<i32>) -> Result<i64, String> {
    let items = items.unwrap_or(ITEMS_DEFAULT);
    if !(0..=ITEMS_MAX).contains(&items) {
        return Err(format!("{argument}={items}: expected 0 to {ITEMS_MAX}"));
    }
    Ok(items.into())
}

fn cursor(argument: &str, text: Option<&str>) -> Result<Option<Cursor>, String> {
    let parse = |text: &str| {
        text.parse().map_err(|()| {
            format!(
                "{argument} is not a cursor of transactions: send cursor, startCursor or endCursor \
                 of a previous page"
            )
        })
    };
    text.map(parse).transpose()
}

/// A page of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct ConnectionPage<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// There may be more items in the direction of the page.
    pub has_more: bool,
    /// The last examined row, if the page ends there without having all requested items.
    pub examined: Option<Cursor>,
}

/// What a client needs for the next and the previous page.
#[derive(GraphQLObject)]
pub struct PageInfo {
    /// True if there are items before the page.
    has_previous_page: bool,
    /// True if there are items after the page.
    has_next_page: bool,
    /// Cursor for `before`; null if nothing was found.
    start_cursor: Option<String>,
    /// Cursor for `after`; null if nothing was found.
    end_cursor: Option<String>,
}

impl PageInfo {
    /// Of a page of transactions.
    pub fn of_range(range: &PageRange, page: &ConnectionPage<Transaction>) -> Self {
        let cursor = |transaction: Option<&Transaction>| transaction.map(Cursor::from);
        let (mut start, mut end) = (cursor(page.items.first()), cursor(page.items.last()));
        if let Some(examined) = page.examined {
            *(if range.from_end { &mut start } else { &mut end }) = Some(examined);
            start = start.or(Some(examined));
            end = end.or(Some(examined));
        }
        Self {
            // A cursor is the place of a transaction, which is not on the page.
            has_previous_page: range.after.is_some() || range.from_end && page.has_more,
            has_next_page: range.before.is_some() || !range.from_end && page.has_more,
            start_cursor: start.map(|it| it.to_string()),
            end_cursor: end.map(|it| it.to_string()),
        }
    }

    /// Of a page whose items are behind `after`, with these cursors.
    pub fn of_cursors(after: Option<&str>, cursors: &[String], has_more: bool) -> Self {
        Self {
            has_previous_page: after.is_some_and(|after| !after.is_empty()),
            has_next_page: has_more,
            start_cursor: cursors.first().cloned(),
            end_cursor: cursors.last().cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::transaction;
    use proptest::prelude::*;

    fn range(first: Option<i32>, last: Option<i32>) -> Result<PageRange, String> {
        PageRange::new(first, None, last, None)
    }

    #[test]
    fn page_has_100_items_by_default() {
        let page = range(None, None).unwrap();
        assert_eq!((page.items_max, page.from_end), (100, false));
        let page = range(None, Some(5)).unwrap();
        assert_eq!((page.items_max, page.from_end), (5, true));
    }

    #[test]
    fn wrong_arguments_of_a_page_are_errors() {
        for (first, last, fits) in [
            (Some(0), None, true),
            (Some(1000), None, true),
            (Some(1001), None, false),
            (Some(-1), None, false),
            (None, Some(1000), true),
            (None, Some(1001), false),
            (None, Some(-1), false),
            (Some(1), Some(1), false),
        ] {
            assert_eq!(range(first, last).is_ok(), fits, "{first:?} {last:?}");
        }
        for wrong in ["", "1", "-", "1-", "-1", "x-1", "1-x", "1-2-3", "11111111111111111-1"] {
            let error = PageRange::new(None, Some(wrong), None, None).unwrap_err();
            assert!(error.starts_with("after is not a cursor"), "{wrong}: {error}");
            let error = PageRange::new(None, None, None, Some(wrong)).unwrap_err();
            assert!(error.starts_with("before is not a cursor"), "{wrong}: {error}");
        }
    }

    #[test]
    fn page_info_follows_the_specification() {
        let info = |range: &PageRange, numbers: &[i64], has_more, examined: Option<i64>| {
            let items = numbers.iter().map(|&number| transaction(number, "a", 1)).collect();
            let examined = examined.map(|number| Cursor { sequence: number, number });
            let info = PageInfo::of_range(range, &ConnectionPage { items, has_more, examined });
            let PageInfo { has_previous_page, has_next_page, start_cursor, end_cursor } = info;
            (has_previous_page, has_next_page, start_cursor, end_cursor)
        };
        let cursor = |number: i64| Some(format!("{number}-{number}"));
        let forward = range(None, None).unwrap();
        assert_eq!(info(&forward, &[], false, None), (false, false, None, None));
        assert_eq!(info(&forward, &[9, 8], true, None), (false, true, cursor(9), cursor(8)));
        assert_eq!(info(&forward, &[9], true, Some(7)), (false, true, cursor(9), cursor(7)));
        assert_eq!(info(&forward, &[], true, Some(7)), (false, true, cursor(7), cursor(7)));
        let after = PageRange { after: Some(Cursor::MAX), ..forward };
        assert_eq!(info(&after, &[9, 8], false, None), (true, false, cursor(9), cursor(8)));
        let backward = range(None, Some(5)).unwrap();
        assert_eq!(info(&backward, &[9, 8], true, None), (true, false, cursor(9), cursor(8)));
        assert_eq!(info(&backward, &[8], true, Some(9)), (true, false, cursor(9), cursor(8)));
        let before = PageRange { before: Some(Cursor::MIN), ..backward };
        assert_eq!(info(&before, &[9, 8], false, None), (false, true, cursor(9), cursor(8)));
    }

    #[test]
    fn range_is_reduced_to_sequences() {
        let place = |sequence| Some(Cursor { sequence, number: i64::MIN });
        let reduced = |after, before, from, until| {
            let range = PageRange { after, before, ..range(None, None).unwrap() };
            let range = range.within(from, until);
            (range.after, range.before)
        };
        assert_eq!(reduced(None, None, None, None), (None, None));
        assert_eq!(reduced(None, None, Some(3), Some(9)), (place(9), place(3)));
        assert_eq!(reduced(place(5), place(4), Some(3), Some(9)), (place(5), place(4)));
        assert_eq!(reduced(place(5), place(4), Some(6), Some(2)), (place(2), place(6)));
    }

    proptest! {
        #[test]
        fn cursor_is_read_as_written(sequence: i64, number: i64) {
            let cursor = Cursor { sequence, number };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}
