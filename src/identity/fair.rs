//! First sights that wait for a call, served in turns: whoever comes with many tokens waits for himself.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// In whose turn something waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A user, by `sub`.
    User(Arc<str>),
    /// A session, by `sid`, while its user is not known.
    Session(Arc<str>),
    /// Whoever sends from an address.
    Address(IpAddr),
    /// All of whom nothing is known.
    Anybody,
}

impl Who {
    /// The turn of an address. Whoever has an IPv6 address has a whole /64 of them.
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(address) => (address.to_bits() >> 64 << 64).to_be_bytes().into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Things that wait, by whom they are for.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    waiting: HashMap<Who, VecDeque<T>>,
    /// Those with something in `waiting`, each once, next first.
    turns: VecDeque<Who>,
    len: usize,
    most: usize,
}

/// So much of a queue may be one's own.
const SHARE: usize = 8;

impl<T> FairQueue<T> {
    /// A queue of at most `most` things.
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), len: 0, most }
    }

    /// Adds a thing at the end of what is for `who`; gives it back where there is no room.
    pub(super) fn push(&mut self, who: Who, thing: T) -> Result<(), T> {
        let own = self.waiting.get(&who).map_or(0, VecDeque::len);
        if self.len >= self.most || own >= (self.most / SHARE).max(1) {
            return Err(thing);
        }
        if own == 0 {
            self.turns.push_back(who.clone());
        }
        self.waiting.entry(who).or_default().push_back(thing);
        self.len += 1;
        Ok(())
    }

    /// The oldest thing of whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let who = self.turns.pop_front()?;
        let own = self.waiting.get_mut(&who)?;
        let thing = own.pop_front();
        if own.is_empty() {
            self.waiting.remove(&who);
        } else {
            self.turns.push_back(who);
        }
        self.len -= usize::from(thing.is_some());
        thing
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Who {
        Who::User(name.into())
    }

    #[test]
    fn each_has_a_turn_however_many_things_another_has() {
        let mut queue = FairQueue::new(800);
        for number in 0..100 {
            queue.push(user("many"), ("many", number)).unwrap();
        }
        queue.push(user("one"), ("one", 0)).unwrap();
        queue.push(Who::Anybody, ("anybody", 0)).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order[..4], [("many", 0), ("one", 0), ("anybody", 0), ("many", 1)]);
        assert_eq!((order.len(), order[101], queue.len()), (102, ("many", 99), 0));
    }

    #[test]
    fn nobody_fills_the_queue_alone() {
        let mut queue = FairQueue::new(80);
        let taken = (0..100).filter(|number| queue.push(user("many"), *number).is_ok()).count();
        assert_eq!(taken, 10);
        for name in 0..7 {
            for number in 0..10 {
                assert_eq!(queue.push(user(&name.to_string()), number), Ok(()));
            }
        }
        assert_eq!(queue.push(user("late"), 1), Err(1), "it is full");
        assert_eq!(queue.len(), 80);
    }

    #[test]
    fn a_network_of_addresses_is_one() {
        let at = |text: &str| Who::at(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }
}
