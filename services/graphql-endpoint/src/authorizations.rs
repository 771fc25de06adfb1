//! Websockets and streams by the token that they were opened with. They end when it is replaced.

use crate::hub::Ending;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Something that a token has opened.
pub trait Authorized: Send + Sync {
    /// Ends it at once. Further calls have no effect.
    fn end(&self, ending: Ending);
}

/// All that is open with the token of an account.
#[derive(Default)]
pub struct Authorizations(Mutex<State>);

/// Digest of a token, and a number.
type Key = ([u8; 32], u64);

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<Key, Weak<dyn Authorized>>,
}

/// The entry of something that is open, removed when dropped.
pub struct Authorization {
    all: Arc<Authorizations>,
    key: Key,
}

impl Authorizations {
    /// Adds `opened`. Call it before the token is looked up: a lookup that still finds the token
    /// precedes the notification of its replacement, so that notification finds the entry.
    pub fn add<T: Authorized + 'static>(
        self: &Arc<Self>,
        token: [u8; 32],
        opened: &Arc<T>,
    ) -> Authorization {
        let mut state = self.state();
        let key = (token, state.next);
        state.next += 1;
        let opened = Arc::downgrade(opened);
        state.open.insert(key, opened);
        Authorization { all: self.clone(), key }
    }

    /// Ends all that was opened with the token that has this digest.
    pub fn end(&self, token: [u8; 32]) {
        let state = self.state();
        let opened = state.open.range((token, 0)..=(token, u64::MAX));
        let opened: Vec<_> = opened.filter_map(|(_, it)| it.upgrade()).collect();
        drop(state);
        opened.iter().for_each(|it| it.end(Ending::LoggedOut));
    }

    /// Ends all that was opened with a token, since notifications may have been missed.
    pub fn end_all(&self) {
        let opened: Vec<_> = self.state().open.values().filter_map(Weak::upgrade).collect();
        opened.iter().for_each(|it| it.end(Ending::Interrupted));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Authorization {
    fn drop(&mut self) {
        self.all.state().open.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Opened(Mutex<Vec<Ending>>);

    impl Authorized for Opened {
        fn end(&self, ending: Ending) {
            self.0.lock().unwrap().push(ending);
        }
    }

    #[test]
    fn replaced_token_ends_what_it_opened() {
        let all = Arc::<Authorizations>::default();
        let opened: [Arc<Opened>; 4] = Default::default();
        let tokens = [[1; 32], [1; 32], [2; 32], [1; 32]];
        let mut entries: Vec<_> =
            tokens.iter().zip(&opened).map(|(token, it)| all.add(*token, it)).collect();
        drop(entries.pop());
        all.end([1; 32]);
        all.end([3; 32]);
        let endings = || opened.each_ref().map(|it| it.0.lock().unwrap().clone());
        let out = Ending::LoggedOut;
        assert_eq!(endings(), [vec![out], vec![out], vec![], vec![]]);
        drop(entries.drain(..2));
        all.end_all();
        assert_eq!(endings(), [vec![out], vec![out], vec![Ending::Interrupted], vec![]]);
        drop(entries);
        assert!(all.state().open.is_empty());
    }
}
