//! Derives a command from a heartbeat record. No I/O and no clock. The random numbers come from a
//! generator that the heartbeat seeds.

use bank::iban::{self, CASH, COMPANY_IBAN, Token};
use bank::ids;
use bank::money::Cents;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use std::collections::HashSet;
use uuid::Uuid;

/// Heartbeats below this number open accounts, so that the later ones have accounts to choose from.
const FIRST_ACCOUNTS: i64 = 20;
/// After those, each heartbeat whose number is a multiple of this opens an account.
const ACCOUNT_EVERY: i64 = 200;
/// The shop that receives card payments.
const SHOP: &str = "Albert Heijn BV";
/// Amounts of deposits and withdrawals in units of 10 euro. An amount that occurs twice is drawn
/// twice as often.
const CASH_AMOUNTS: [i64; 8] = [2, 2, 2, 3, 5, 5, 10, 20];

/// Namespace of the derived ids (RFC 9562, section 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x5c7a_7c4b_a11c_5f00_9b1d_2b60_0e4e_7a70);

/// A command to the bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the topic `confirm_account_creation`.
    OpenAccount(ConfirmAccountCreation),
    /// For the topic `confirm_money_transfer`.
    Transfer(Kind, ConfirmMoneyTransfer),
}

/// The kind of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// From the company to an account.
    Salary,
    /// From cash to an account.
    Deposit,
    /// From an account to cash.
    Withdraw,
    /// A card payment, from an account to a shop.
    Pin,
    /// From an account to another account.
    Transfer,
}

impl Kind {
    /// Name of the kind. It is also the description of the transfer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Salary => "salary",
            Self::Deposit => "deposit",
            Self::Withdraw => "withdraw",
            Self::Pin => "pin",
            Self::Transfer => "transfer",
        }
    }

    fn draw(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..70) {
            0 => Self::Salary,
            1..=3 => Self::Deposit,
            4..=13 => Self::Withdraw,
            14..=53 => Self::Pin,
            _ => Self::Transfer,
        }
    }

    fn draw_amount(self, rng: &mut impl Rng) -> Cents {
        Cents::new(match self {
            Self::Salary => 220_000 + rng.random_range(0..50_000),
            Self::Deposit | Self::Withdraw => {
                1_000 * CASH_AMOUNTS.choose(rng).expect("the array has eight elements")
            }
            Self::Pin | Self::Transfer => 1_000 + rng.random_range(0..10_000),
        })
    }
}

/// Returns the command of heartbeat `number`, or `None` if it needs more accounts than are known.
/// The heartbeat then waits.
pub fn command(number: i64, id: Uuid, accounts: &Accounts, rng: &mut impl Rng) -> Option<Command> {
    if opens_account(number) {
        let open = ConfirmAccountCreation { id, a_type: Atype::Auto };
        return Some(Command::OpenAccount(open));
    }
    let kind = Kind::draw(rng);
    let amount = kind.draw_amount(rng);
    let (token, from, to) = match kind {
        Kind::Salary => paid_by_company(accounts, accounts.draw(rng)?.iban()),
        Kind::Deposit => (CASH.to_owned(), CASH.to_owned(), accounts.draw(rng)?.iban()),
        Kind::Withdraw => paid_by(accounts.draw(rng)?, CASH.to_owned()),
        Kind::Pin => paid_by(accounts.draw(rng)?, SHOP.to_owned()),
        Kind::Transfer => {
            let (from, to) = accounts.draw_two(rng)?;
            paid_by(from, to.iban())
        }
    };
    let description = kind.name().to_owned();
    Some(Command::Transfer(kind, ConfirmMoneyTransfer { id, token, amount, from, to, description }))
}

/// True if heartbeat `number` opens an account. Such a heartbeat never waits.
pub fn opens_account(number: i64) -> bool {
    number < FIRST_ACCOUNTS || number % ACCOUNT_EVERY == 0
}

/// Returns the command that pays the first salary of `account`.
pub fn first_salary(
    id: Uuid,
    account: &Account,
    accounts: &Accounts,
    rng: &mut impl Rng,
) -> Command {
    let kind = Kind::Salary;
    let (token, from, to) = paid_by_company(accounts, account.iban());
    let (amount, description) = (kind.draw_amount(rng), kind.name().to_owned());
    Command::Transfer(kind, ConfirmMoneyTransfer { id, token, amount, from, to, description })
}

fn paid_by_company(accounts: &Accounts, to: String) -> (String, String, String) {
    (accounts.company_token.as_str().to_owned(), COMPANY_IBAN.to_owned(), to)
}

fn paid_by(account: &Account, to: String) -> (String, String, String) {
    (account.token.as_str().to_owned(), account.iban(), to)
}

/// Returns the id of a heartbeat's command. It is the same in every instance and after a restart,
/// so the bank decides the command once.
/// - A recreated topic has the same offsets and numbers again, but other keys: the times of
///   sending.
/// - Ids ascend with the time of the heartbeat. In the bank's index an ascending key costs half as
///   much as a random one.
pub fn beat_id(partition: i32, offset: i64, key: &[u8], number: i64) -> Uuid {
    let mut name = Vec::with_capacity(32 + key.len());
    name.extend_from_slice(b"beat");
    name.extend_from_slice(&partition.to_be_bytes());
    name.extend_from_slice(&offset.to_be_bytes());
    name.extend_from_slice(&number.to_be_bytes());
    name.extend_from_slice(key);
    // A key that is not a time also results in a valid id, but ids then do not ascend.
    let time = str::from_utf8(key).ok().and_then(|ms| ms.parse::<u64>().ok()).unwrap_or_default();
    ids::derived(&NAMESPACE, time, &name)
}

/// Returns the id of the first salary for the account that command `opened` has opened. The bank
/// pays the salary once, even if the outcome is read again.
pub fn first_salary_id(opened: &Uuid) -> Uuid {
    let time = opened.as_u64_pair().0 >> 16;
    ids::derived(&NAMESPACE, time, &[b"salary", &opened.as_bytes()[..]].concat())
}

/// Returns the random numbers of heartbeat or account `number`: a function of `seed` and `number`,
/// or of `id` without a seed.
pub fn draws(seed: Option<u64>, number: u64, id: &Uuid) -> SmallRng {
    // 2^64 divided by the golden ratio: successive seeds do not result in shifted copies of one
    // sequence.
    let from_seed = |seed: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
    SmallRng::seed_from_u64(seed.map_or_else(|| id.as_u64_pair().1, from_seed))
}

/// An account with the token to debit it. Without heap allocations, since there may be 100,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    iban: [u8; 18],
    token: Token,
}

impl Account {
    /// Returns `None` if `iban` or `token` is not well-formed for this bank.
    pub fn new(iban: &str, token: &str) -> Option<Self> {
        iban::is_well_formed(iban).then_some(())?;
        Some(Self { iban: iban.as_bytes().try_into().ok()?, token: token.parse().ok()? })
    }

    fn iban(&self) -> String {
        self.iban.iter().copied().map(char::from).collect()
    }

    /// The account number: the last ten digits of the iban, in eight bytes.
    fn number(&self) -> u64 {
        self.iban[8..].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    }
}

/// The known accounts, each once, up to a maximum. An account takes about 50 bytes.
#[derive(Debug)]
pub struct Accounts {
    /// Token of the company account, which is not in the list.
    company_token: Token,
    list: Vec<Account>,
    max: usize,
    /// The numbers of all accounts in the list, until it is full.
    numbers: HashSet<u64>,
}

impl Accounts {
    /// Limit of known accounts, which take 5 MB then. A container has 16 MiB. Further accounts are
    /// ignored: a load needs no larger choice.
    pub const MAX: usize = 100_000;

    /// Knows no account but the company's, and `max` others at most.
    pub fn new(company_token: Token, max: usize) -> Self {
        // A list that grows would be in memory twice for a moment. Unused pages take no memory.
        Self { company_token, list: Vec::with_capacity(max), max, numbers: HashSet::new() }
    }

    /// Adds an account unless it is known. The topic has an account twice if its command was
    /// replayed.
    pub fn remember(&mut self, account: Account) {
        if !self.is_full() && self.numbers.insert(account.number()) {
            self.list.push(account);
        }
        if self.is_full() {
            self.numbers = HashSet::new();
        }
    }

    /// True if further accounts are ignored.
    pub fn is_full(&self) -> bool {
        self.list.len() >= self.max
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn draw(&self, rng: &mut impl Rng) -> Option<&Account> {
        self.list.choose(rng)
    }

    /// Two different accounts; `None` if fewer than two are known.
    fn draw_two(&self, rng: &mut impl Rng) -> Option<(&Account, &Account)> {
        if self.list.len() < 2 {
            return None;
        }
        let first = rng.random_range(0..self.list.len());
        let second = rng.random_range(0..self.list.len() - 1);
        Some((&self.list[first], &self.list[second + usize::from(second >= first)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Token of the company account.
    const OWN_TOKEN: &str = "31415926535897932384";

    fn accounts(count: u64) -> Accounts {
        let mut accounts = Accounts::new(OWN_TOKEN.parse().unwrap(), Accounts::MAX);
        let mut rng = SmallRng::seed_from_u64(1);
        for n in 0..count {
            accounts
                .remember(Account::new(&iban::generate(&mut rng), &format!("{n:020}")).unwrap());
        }
        accounts
    }

    /// `count` commands that move money.
    fn transfers(count: u64, accounts: &Accounts) -> Vec<(Kind, ConfirmMoneyTransfer)> {
        let of =
            |n: u64| match command(21, Uuid::nil(), accounts, &mut draws(Some(1), n, &Uuid::nil()))
            {
                Some(Command::Transfer(kind, transfer)) => (kind, transfer),
                other => panic!("{other:?}"),
            };
        (0..count).map(of).collect()
    }

    #[test]
    fn accounts_beyond_the_maximum_are_ignored() {
        let mut few = Accounts::new(OWN_TOKEN.parse().unwrap(), 3);
        let all = accounts(4).list;
        for account in [all[0], all[1], all[0], all[2]] {
            assert!(!few.is_full());
            few.remember(account);
        }
        assert!(few.is_full());
        few.remember(all[3]);
        assert_eq!(few.list, all[..3]);
        let bytes = Accounts::MAX * size_of::<Account>();
        assert!(bytes < 4_000_000, "{bytes} bytes do not fit into a container");
    }

    #[test]
    fn first_20_heartbeats_and_each_200th_open_accounts() {
        for (number, opens) in [
            (i64::MIN, true),
            (-1, true),
            (0, true),
            (19, true),
            (20, false),
            (21, false),
            (199, false),
            (200, true),
            (201, false),
            (399, false),
            (400, true),
            (i64::MAX, false),
        ] {
            assert_eq!(opens_account(number), opens, "{number}");
            let id = Uuid::from_u128(9);
            let found = command(number, id, &accounts(0), &mut draws(None, 0, &id));
            let open = Command::OpenAccount(ConfirmAccountCreation { id, a_type: Atype::Auto });
            assert_eq!(found, opens.then_some(open), "{number}");
        }
    }

    #[test]
    fn kinds_have_their_frequencies() {
        let mut counts = BTreeMap::new();
        for (kind, _) in transfers(70_000, &accounts(5)) {
            *counts.entry(kind).or_insert(0) += 1;
        }
        // The ranges are six standard deviations around 1, 3, 10, 40 and 16 of 70.
        for (kind, range) in [
            (Kind::Salary, 810..1_190),
            (Kind::Deposit, 2_680..3_320),
            (Kind::Withdraw, 9_440..10_560),
            (Kind::Pin, 39_200..40_800),
            (Kind::Transfer, 15_330..16_670),
        ] {
            assert!(range.contains(&counts[&kind]), "{counts:?}");
        }
    }

    #[test]
    fn kind_determines_parties_token_and_amount() {
        let accounts = accounts(3);
        let token_of = |iban: &str| {
            let account = accounts.list.iter().find(|account| account.iban() == iban);
            account.map(|account| account.token.as_str().to_owned())
        };
        let mut ranges: BTreeMap<Kind, (i64, i64)> = BTreeMap::new();
        for (kind, transfer) in transfers(200_000, &accounts) {
            let ConfirmMoneyTransfer { from, to, token, .. } = &transfer;
            match kind {
                Kind::Salary => assert_eq!((&**from, &**token), (COMPANY_IBAN, OWN_TOKEN)),
                Kind::Deposit => assert_eq!((&**from, &**token), ("cash", "cash")),
                _ => assert_eq!(Some(token.clone()), token_of(from), "{transfer:?}"),
            }
            match kind {
                Kind::Withdraw => assert_eq!(to, "cash"),
                Kind::Pin => assert_eq!(to, "Albert Heijn BV"),
                _ => assert!(token_of(to).is_some(), "{transfer:?}"),
            }
            assert_ne!(from, to);
            assert_eq!(transfer.description, kind.name());
            let amount = transfer.amount.get();
            if matches!(kind, Kind::Deposit | Kind::Withdraw) {
                assert!([2_000, 3_000, 5_000, 10_000, 20_000].contains(&amount), "{amount}");
            }
            let range = ranges.entry(kind).or_insert((amount, amount));
            *range = (range.0.min(amount), range.1.max(amount));
        }
        // All amounts are in range, and 200,000 draws come close to both ends.
        let (low, high) = ranges[&Kind::Salary];
        assert!(
            (220_000..220_500).contains(&low) && (269_500..270_000).contains(&high),
            "{ranges:?}"
        );
        assert_eq!(ranges[&Kind::Deposit], (2_000, 20_000));
        assert_eq!(ranges[&Kind::Withdraw], (2_000, 20_000));
        assert_eq!(
            (ranges[&Kind::Pin], ranges[&Kind::Transfer]),
            ((1_000, 10_999), (1_000, 10_999))
        );
    }

    #[test]
    fn transfer_without_known_accounts_waits() {
        let none = accounts(0);
        for n in 0..200 {
            assert_eq!(command(21, Uuid::nil(), &none, &mut draws(Some(n), 0, &Uuid::nil())), None);
        }
    }

    #[test]
    fn transfer_between_accounts_waits_for_two_accounts() {
        let one = accounts(1);
        let (mut waiting, mut made) = (0, 0);
        for n in 0..700 {
            match command(21, Uuid::nil(), &one, &mut draws(Some(1), n, &Uuid::nil())) {
                None => waiting += 1,
                Some(Command::Transfer(kind, _)) => {
                    assert_ne!(kind, Kind::Transfer);
                    made += 1;
                }
                Some(other) => panic!("{other:?}"),
            }
        }
        assert!(waiting > 0 && made > 0);
    }

    #[test]
    fn replayed_heartbeat_becomes_the_same_command() {
        let accounts = accounts(100);
        let id = beat_id(0, 77, b"1700000000000", 21);
        let again = || command(21, id, &accounts, &mut draws(None, 21, &id));
        assert_eq!(again(), again());
        let others = [
            beat_id(1, 77, b"1700000000000", 21),
            beat_id(0, 78, b"1700000000000", 21),
            beat_id(0, 77, b"1700000000001", 21),
            beat_id(0, 77, b"1700000000000", 22),
        ];
        for other in others {
            assert_ne!(other, id);
        }
    }

    #[test]
    fn ids_ascend_with_the_heartbeats_time() {
        let times = [b"1700000000000", b"1700000000001", b"1800000000000"];
        let ids = times.map(|time| beat_id(0, 7, time, 21));
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!((ids[0].get_version_num(), ids[0].get_variant()), (8, uuid::Variant::RFC4122));
        assert!((ids[0]..ids[2]).contains(&first_salary_id(&ids[1])));
        for no_time in [&b""[..], b"noon", b"\xff", b"99999999999999999999"] {
            assert_ne!(beat_id(0, 7, no_time, 21), beat_id(0, 8, no_time, 21));
        }
    }

    #[test]
    fn seed_repeats_kinds_and_amounts() {
        let accounts = accounts(10);
        let run = |seed, offset: i64| -> Vec<(Kind, Cents)> {
            (20..120)
                .map(|number: i64| {
                    let id = beat_id(0, offset + number, b"", number);
                    let mut rng = draws(seed, number as u64, &id);
                    match command(number, id, &accounts, &mut rng) {
                        Some(Command::Transfer(kind, transfer)) => (kind, transfer.amount),
                        other => panic!("{other:?}"),
                    }
                })
                .collect()
        };
        assert_eq!(run(Some(7), 0), run(Some(7), 1_000));
        assert_ne!(run(Some(7), 0), run(Some(8), 0));
        assert_ne!(run(None, 0), run(None, 1_000), "without a seed the ids determine the numbers");
    }

    #[test]
    fn first_salary_has_one_id_per_account() {
        let opened = Uuid::from_u128(3);
        assert_eq!(first_salary_id(&opened), first_salary_id(&opened));
        assert_ne!(first_salary_id(&opened), first_salary_id(&Uuid::from_u128(4)));
        assert_ne!(first_salary_id(&opened), opened);
        let accounts = accounts(1);
        let [account] = accounts.list[..] else { panic!("one account") };
        let id = first_salary_id(&opened);
        let Command::Transfer(Kind::Salary, salary) =
            first_salary(id, &account, &accounts, &mut draws(None, 0, &id))
        else {
            panic!("no salary");
        };
        assert_eq!((salary.id, &*salary.from, &*salary.token), (id, COMPANY_IBAN, OWN_TOKEN));
        assert_eq!(salary.to, account.iban());
        assert!((220_000..270_000).contains(&salary.amount.get()));
    }

    #[test]
    fn known_account_is_added_once() {
        let mut accounts = accounts(3);
        accounts.remember(accounts.list[1]);
        assert_eq!(accounts.len(), 3);
    }

    #[test]
    fn malformed_iban_or_token_is_rejected() {
        let token = "01234567890123456789";
        assert!(Account::new(COMPANY_IBAN, token).is_some());
        for (iban, token) in [
            ("NL67OPEN0000000000", token),
            ("cash", token),
            ("", token),
            (COMPANY_IBAN, ""),
            (COMPANY_IBAN, &token[1..]),
            (COMPANY_IBAN, "0123456789012345678x"),
            (COMPANY_IBAN, "\u{e9}123456789012345678"),
        ] {
            assert_eq!(Account::new(iban, token), None, "{iban} {token}");
        }
    }
}
