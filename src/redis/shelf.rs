//! Keys and values that several processes keep in a Redis, changed by compare-and-swap, with a log of what was changed.
//!
//! Two keys of Redis: a hash of the values, and a stream whose entries name what was changed. A reader remembers the last entry that it
//! saw. As long as that stands in the log, what comes after it is all that is new. If it does not, this is another history (Redis was
//! emptied, or came back from an older copy, or another server took over that had not heard of all, or the reader was away for too
//! long), and the reader takes up everything anew. Entries bear a mark that was drawn, so that one of another history is not taken for it.

use super::error::RedisError;
use super::{Redis, Script};
use aws_lc_rs::rand;
use redis::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// So many changes a reader may be behind: what is beyond is trimmed now and then.
pub(super) const LOG: usize = 10_000;

/// How many values are asked for at once.
const PAGE: usize = 1_000;

/// A look at what was changed. Gives the end of the log alone if one of the entries that the reader knows of does not stand there.
const LOOK: &str = r"
local values, log, fresh, most = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
if not last then
  return {0, redis.call('XADD', log, '*', fresh, ''), fresh}
end
if not ARGV[3] then return {0, last[1], last[2][1]} end
for at = 3, #ARGV, 2 do
  local known = redis.call('XRANGE', log, ARGV[at], ARGV[at])[1]
  if not known or known[2][1] ~= ARGV[at + 1] then return {0, last[1], last[2][1]} end
end
local id, mark = ARGV[3], ARGV[4]
local news = redis.call('XRANGE', log, '(' .. id, '+', 'COUNT', most)
local changed, is_told = {}, {}
for _, entry in ipairs(news) do
  id, mark = entry[1], entry[2][1]
  local key = entry[2][2]
  if key ~= '' and not is_told[key] then
    is_told[key] = true
    changed[#changed + 1] = key
    changed[#changed + 1] = redis.call('HGET', values, key)
  end
end
return {1, id, mark, redis.call('HLEN', values), changed, #news == most and 1 or 0}
";

/// Puts values whose keys are as they were found, and gives what stands there for the others, and the last entry of the log that it
/// wrote. An empty value is one that is not there.
const PUT: &str = r"
local values, log, mark, length = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local results, id = {}, ''
for at = 3, #ARGV, 3 do
  local key, found, new = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local now = redis.call('HGET', values, key)
  if (now or '') ~= found then
    results[#results + 1] = now
  else
    if new == '' then redis.call('HDEL', values, key) else redis.call('HSET', values, key, new) end
    id = redis.call('XADD', log, 'MAXLEN', '~', length, '*', mark, key)
    results[#results + 1] = 1
  end
end
return {results, id}
";

/// Keys and values of one name.
pub struct Shelf {
    redis: Arc<Redis>,
    name: &'static str,
    look: Script,
    put: Script,
}

/// An entry of the log: the last that a reader has seen, or one that it wrote.
#[derive(Clone, PartialEq, Eq)]
pub struct Position {
    pub(super) id: Vec<u8>,
    pub(super) mark: Vec<u8>,
}

/// What a look shows.
#[derive(Debug)]
pub enum Look {
    /// What was changed since, and stands there now; `None`: nothing any more.
    Since {
        /// From where to look next.
        position: Position,
        /// The keys, each once.
        changed: Vec<(String, Option<Vec<u8>>)>,
        /// How many keys there are in all.
        count: usize,
        /// Whether there may be more changes: then `count` is ahead of them.
        has_more: bool,
    },
    /// Another history than the reader's: everything is to be read, and then from here.
    Anew(Position),
}

/// One change.
#[derive(Debug, Clone)]
pub struct Swap {
    /// The key.
    pub key: String,
    /// What was found there; `None`: nothing.
    pub found: Option<Vec<u8>>,
    /// What is to stand there; `None`: nothing. An empty value is nothing too.
    pub put: Option<Vec<u8>>,
}

/// What came of changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Those that were not made: their places, and what stands there.
    pub stale: Vec<(usize, Option<Vec<u8>>)>,
    /// The last entry of those that were.
    pub last: Option<Position>,
}

impl Shelf {
    /// The shelf `name` of a Redis.
    pub fn new(redis: Arc<Redis>, name: &'static str) -> Self {
        Self { redis, name, look: Script::new(LOOK), put: Script::new(PUT) }
    }

    /// What was changed since a position, if what the reader `wrote` since stands there too. Without a position: from where to look
    /// after everything was read.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn look(&self, since: Option<&Position>, wrote: &[Position]) -> Result<Look, RedisError> {
        let (mark, most) = (fresh_mark(), PAGE.to_string());
        let mut arguments = vec![mark.as_slice(), most.as_bytes()];
        let known = since.into_iter().flat_map(|since| std::iter::once(since).chain(wrote));
        known.for_each(|position| arguments.extend([position.id.as_slice(), &position.mark]));
        let answer = self.run(&self.look, &arguments).await?;
        let look = parse_look(answer).ok_or_else(|| self.unexpected())?;
        look.map_err(RedisError::Unexpected)
    }

    /// Everything, as it stands there during the call. Page by page, so that Redis answers others meanwhile.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn all(&self) -> Result<BTreeMap<String, Vec<u8>>, RedisError> {
        let (values, mut cursor) = (self.redis.key(self.name), b"0".to_vec());
        let mut all = BTreeMap::new();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&values).arg(&cursor).arg("COUNT").arg(PAGE);
            let [next, page] = fields(self.redis.ask(&command).await?).ok_or_else(|| self.unexpected())?;
            for (key, value) in pairs(page).ok_or_else(|| self.unexpected())? {
                let value = bytes(value).ok_or_else(|| self.unexpected())?;
                all.insert(text(key).map_err(RedisError::Unexpected)?, value);
            }
            cursor = bytes(next).ok_or_else(|| self.unexpected())?;
            if cursor == b"0" {
                return Ok(all);
            }
        }
    }

    /// The values of some keys, in their order.
    ///
    /// # Errors
    /// [`RedisError`].
    pub async fn get(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, RedisError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let answer = self.redis.ask(redis::cmd("HMGET").arg(self.redis.key(self.name)).arg(keys)).await?;
        let values = list(answer).filter(|values| values.len() == keys.len()).ok_or_else(|| self.unexpected())?;
        values.into_iter().map(|value| optional(value).ok_or_else(|| self.unexpected())).collect()
    }

    /// Makes each change whose key is still as it was found, all at the same moment.
    ///
    /// # Errors
    /// [`RedisError`]. They may have been made nevertheless.
    pub async fn put(&self, swaps: &[Swap]) -> Result<Swapped, RedisError> {
        if swaps.is_empty() {
            return Ok(Swapped::default());
        }
        let (mark, length) = (fresh_mark(), LOG.to_string());
        let mut arguments = vec![mark.as_slice(), length.as_bytes()];
        for Swap { key, found, put } in swaps {
            arguments.extend([
                key.as_bytes(),
                found.as_deref().unwrap_or_default(),
                put.as_deref().unwrap_or_default(),
            ]);
        }
        let answer = self.run(&self.put, &arguments).await?;
        parse_put(answer, swaps.len(), &mark).ok_or_else(|| self.unexpected())
    }

    async fn run(&self, script: &Script, arguments: &[&[u8]]) -> Result<Value, RedisError> {
        let (values, log) = (self.redis.key(self.name), self.redis.key(&format!("{}:log", self.name)));
        self.redis.run(script, &[&values, &log], arguments).await
    }

    fn unexpected(&self) -> RedisError {
        RedisError::Unexpected(self.redis.key(self.name))
    }
}

/// Values may be secrets.
impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", String::from_utf8_lossy(&self.id), String::from_utf8_lossy(&self.mark))
    }
}

/// Drawn, as hex: no other write has it.
fn fresh_mark() -> Vec<u8> {
    let mut drawn = [0; 12];
    // Without random bytes the marks of two histories may be the same, and their times hardly ever are.
    let _ = rand::fill(&mut drawn);
    drawn.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}

/// `None`: the answer has another form. `Err`: a key is no text.
fn parse_look(answer: Value) -> Option<Result<Look, String>> {
    let mut parts = list(answer)?.into_iter();
    let is_since = matches!(parts.next()?, Value::Int(1));
    let position = Position { id: bytes(parts.next()?)?, mark: bytes(parts.next()?)? };
    if !is_since {
        return Some(Ok(Look::Anew(position)));
    }
    let Value::Int(count) = parts.next()? else { return None };
    let count = usize::try_from(count).ok()?;
    let mut changed = Vec::new();
    for (key, value) in pairs(parts.next()?)? {
        match text(key) {
            Ok(key) => changed.push((key, optional(value)?)),
            Err(key) => return Some(Err(key)),
        }
    }
    let has_more = matches!(parts.next()?, Value::Int(1));
    Some(Ok(Look::Since { position, changed, count, has_more }))
}

/// `None`: the answer has another form.
fn parse_put(answer: Value, count: usize, mark: &[u8]) -> Option<Swapped> {
    let [results, id] = fields(answer)?;
    let results = list(results).filter(|results| results.len() == count)?;
    let stale = results.into_iter().enumerate().filter(|(_, result)| !matches!(result, Value::Int(_)));
    let stale = stale.map(|(at, value)| Some((at, optional(value)?))).collect::<Option<_>>()?;
    let id = bytes(id)?;
    let last = (!id.is_empty()).then(|| Position { id, mark: mark.to_vec() });
    Some(Swapped { stale, last })
}

fn list(value: Value) -> Option<Vec<Value>> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

fn fields<const N: usize>(value: Value) -> Option<[Value; N]> {
    list(value)?.try_into().ok()
}

fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    let values = list(value)?;
    let mut pairs = Vec::with_capacity(values.len() / 2);
    let mut values = values.into_iter();
    while let Some(key) = values.next() {
        pairs.push((key, values.next()?));
    }
    Some(pairs)
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn optional(value: Value) -> Option<Option<Vec<u8>>> {
    if value == Value::Nil { Some(None) } else { bytes(value).map(Some) }
}

/// As a key is written; else as far as it can be read.
fn text(value: Value) -> Result<String, String> {
    let bytes = bytes(value).unwrap_or_default();
    String::from_utf8(bytes).map_err(|error| String::from_utf8_lossy(error.as_bytes()).escape_debug().to_string())
}
