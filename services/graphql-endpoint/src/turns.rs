//! A queue in which clients take turns, so that one with many items delays no other.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

/// The waiting items of all clients.
pub struct Turns<T> {
    /// Never contains an empty queue.
    waiting: HashMap<IpAddr, VecDeque<T>>,
    /// The clients in `waiting`, in the order of their turns.
    order: VecDeque<IpAddr>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// The number of items of a client.
    pub fn count(&self, client: IpAddr) -> usize {
        self.waiting.get(&client).map_or(0, VecDeque::len)
    }

    pub fn push(&mut self, client: IpAddr, item: T) {
        let own = self.waiting.entry(client).or_default();
        if own.is_empty() {
            self.order.push_back(client);
        }
        own.push_back(item);
    }

    /// Takes the next item of the first client in turn that `may` accepts.
    pub fn take(&mut self, may: impl Fn(&IpAddr) -> bool) -> Option<(IpAddr, T)> {
        let at = self.order.iter().position(may)?;
        let client = self.order.remove(at)?;
        let own = self.waiting.get_mut(&client)?;
        let item = own.pop_front()?;
        if own.is_empty() {
            self.waiting.remove(&client);
        } else {
            self.order.push_back(client);
        }
        Some((client, item))
    }

    /// Removes the items of a client that `is_removed` accepts.
    pub fn remove(&mut self, client: IpAddr, is_removed: impl Fn(&T) -> bool) {
        let Some(own) = self.waiting.get_mut(&client) else { return };
        own.retain(|item| !is_removed(item));
        if own.is_empty() {
            self.waiting.remove(&client);
            self.order.retain(|it| *it != client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn clients_take_turns() {
        let mut turns = Turns::default();
        for (number, item) in [(1, 1), (1, 3), (1, 5), (2, 2), (2, 4), (3, 9)] {
            turns.push(client(number), item);
        }
        turns.remove(client(3), |item| *item == 9);
        assert_eq!((turns.count(client(1)), turns.count(client(3))), (3, 0));
        let taken = std::iter::from_fn(|| turns.take(|_| true));
        assert_eq!(taken.map(|(_, item)| item).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(turns.order.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn client_out_of_turn_keeps_its_place() {
        let mut turns = Turns::default();
        turns.push(client(1), 1);
        turns.push(client(2), 2);
        assert_eq!(turns.take(|it| *it == client(2)), Some((client(2), 2)));
        assert_eq!(turns.take(|it| *it == client(2)), None);
        assert_eq!(turns.take(|_| true), Some((client(1), 1)));
    }
}
