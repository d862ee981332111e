//! What a `when` comes to for one request. Allocates nothing.
//!
//! Cedar's evaluation, with one addition. A few values can be read in two ways, by us and by whoever serves the request:
//! a header line with commas is one value or several, a path segment `7;v=1` is that or `7`. Where such a value was
//! looked at, the condition is evaluated in both ways: a permit needs it to hold in each, for a forbid one is enough.

use std::cell::Cell;
use std::fmt;

use serde_json::Value as Json;
use signet_model::when::{Attribute, ClaimType, Expr};
use signet_model::{Effect, ObjectName, PathTemplate, PolicySpec, When};

use crate::condition::Truth;
use crate::facts::{Facts, User};

/// Why a condition has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure<'p> {
    /// This attribute is not there.
    Absent(&'p Attribute),
    /// It is there, and is not what the condition takes it to be.
    Type(&'p Attribute),
}

impl Failure<'_> {
    /// For metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Failure::Absent(_) => "absent",
            Failure::Type(_) => "type",
        }
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Absent(attribute) => write!(f, "{attribute} is absent"),
            Failure::Type(attribute @ Attribute::Claim(_, of)) => {
                write!(f, "{attribute} is not {}", of.as_str())
            }
            Failure::Type(attribute) => write!(f, "{attribute} is not text"),
        }
    }
}

/// What the condition of this policy comes to. `user` is the one that the policy may speak of.
pub(crate) fn truth<'p>(
    when: &'p When,
    spec: &'p PolicySpec,
    facts: &Facts<'_>,
    service: &ObjectName,
    user: Option<&User>,
) -> (Truth, Option<Failure<'p>>) {
    let reading = |split| Reading { spec, facts, service, user, split, is_ambiguous: Cell::new(false) };
    let first = reading(false);
    let plain = first.holds(when.expr());
    if !first.is_ambiguous.get() {
        return told(plain);
    }
    let other = reading(true).holds(when.expr());
    let matches = |result: &Result<bool, Failure<'p>>| told(*result).0.holds_for(spec);
    // The one that is stricter in effect.
    match (spec.effect, matches(&plain), matches(&other)) {
        (Effect::Permit, true, _) | (Effect::Forbid | Effect::External, false, true) => told(other),
        _ => told(plain),
    }
}

/// What the condition looked at, for a person.
pub(crate) fn had(
    when: &When,
    spec: &PolicySpec,
    facts: &Facts<'_>,
    service: &ObjectName,
    user: Option<&User>,
) -> String {
    let reading = Reading { spec, facts, service, user, split: false, is_ambiguous: Cell::new(false) };
    let shown = when.reads().attributes.iter().map(|attribute| {
        let value = match attribute {
            Attribute::Request | Attribute::User | Attribute::Claim(_, ClaimType::Any) => {
                reading.has(attribute).map(|is| if is { "present" } else { "absent" }.to_owned())
            }
            Attribute::Now => return format!("{attribute} {}", moment(facts.now_ms)),
            _ => reading.read(attribute).map(|value| reading.shown(value)),
        };
        match value {
            Ok(value) => format!("{attribute} {value}"),
            Err(failure) => failure.to_string(),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Seconds are enough; a time beyond the calendar is shown as its number.
fn moment(millis: i64) -> String {
    signet_model::Moment::from_unix(millis.div_euclid(1000)).map_or(millis.to_string(), |it| it.to_string())
}

fn told(result: Result<bool, Failure<'_>>) -> (Truth, Option<Failure<'_>>) {
    match result {
        Ok(true) => (Truth::Yes, None),
        Ok(false) => (Truth::No, None),
        Err(failure) => (Truth::Absent, Some(failure)),
    }
}

/// One evaluation.
struct Reading<'f> {
    spec: &'f PolicySpec,
    facts: &'f Facts<'f>,
    service: &'f ObjectName,
    user: Option<&'f User>,
    /// Headers are split at commas, path segments end at `;`.
    split: bool,
    /// Something was looked at that the other reading would read otherwise.
    is_ambiguous: Cell<bool>,
}

#[derive(Clone, Copy)]
enum Value<'v> {
    Bool(bool),
    /// A number, a moment or a span.
    Long(i64),
    Text(&'v str),
    Texts(Texts<'v>),
    Longs(&'v [i64]),
}

#[derive(Clone, Copy)]
enum Texts<'v> {
    Listed(&'v [Box<str>]),
    Scopes(&'v [String]),
    Claim(&'v [Json]),
    One(&'v str),
    Header(&'v str),
}

impl<'f> Reading<'f> {
    fn holds<'p>(&self, expr: &'p Expr) -> Result<bool, Failure<'p>>
    where
        'p: 'f,
    {
        // The parser gives each operator operands of its type: `false` stands where that cannot be otherwise.
        match self.value(expr)? {
            Value::Bool(holds) => Ok(holds),
            _ => Ok(false),
        }
    }

    fn value<'p>(&self, expr: &'p Expr) -> Result<Value<'f>, Failure<'p>>
    where
        'p: 'f,
    {
        Ok(Value::Bool(match expr {
            Expr::Bool(value) => *value,
            Expr::Long(value) | Expr::Moment(value) | Expr::Span(value) => return Ok(Value::Long(*value)),
            Expr::Text(text) => return Ok(Value::Text(text)),
            Expr::Texts(texts) => return Ok(Value::Texts(Texts::Listed(texts))),
            Expr::Longs(numbers) => return Ok(Value::Longs(numbers)),
            Expr::Read(attribute) => return self.read(attribute),
            Expr::Has(attribute) => self.has(attribute)?,
            Expr::TimeOfDay(moment) => {
                return Ok(Value::Long(self.long(moment)?.rem_euclid(86_400_000)));
            }
            Expr::Not(inner) => !self.holds(inner)?,
            Expr::All(parts) => {
                for part in parts {
                    if !self.holds(part)? {
                        return Ok(Value::Bool(false));
                    }
                }
                true
            }
            Expr::Any(parts) => {
                for part in parts {
                    if self.holds(part)? {
                        return Ok(Value::Bool(true));
                    }
                }
                false
            }
            Expr::Equal(sides) => {
                let (left, right) = (self.value(&sides.0)?, self.value(&sides.1)?);
                self.equal(left, right)
            }
            Expr::Less(sides) => self.long(&sides.0)? < self.long(&sides.1)?,
            Expr::LessOrEqual(sides) => self.long(&sides.0)? <= self.long(&sides.1)?,
            Expr::Like(text, pattern) => match self.value(text)? {
                Value::Text(text) => pattern.matches(text),
                _ => false,
            },
            Expr::Contains(sides) => {
                let (set, item) = (self.value(&sides.0)?, self.value(&sides.1)?);
                self.contains(set, item)
            }
            Expr::ContainsAll(sides) => {
                let (set, wanted) = (self.value(&sides.0)?, self.value(&sides.1)?);
                self.contains_all(set, wanted)
            }
            Expr::ContainsAny(sides) => {
                let (set, wanted) = (self.value(&sides.0)?, self.value(&sides.1)?);
                self.any(wanted, |item| self.contains(set, item))
            }
            Expr::IsEmpty(set) => !self.any(self.value(set)?, |_| true),
        }))
    }

    fn long<'p>(&self, expr: &'p Expr) -> Result<i64, Failure<'p>>
    where
        'p: 'f,
    {
        match self.value(expr)? {
            Value::Long(number) => Ok(number),
            _ => Ok(0),
        }
    }

    fn equal(&self, left: Value<'_>, right: Value<'_>) -> bool {
        match (left, right) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Long(a), Value::Long(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Texts(_), Value::Texts(_)) | (Value::Longs(_), Value::Longs(_)) => {
                self.contains_all(left, right) && self.contains_all(right, left)
            }
            _ => false,
        }
    }

    fn contains(&self, set: Value<'_>, item: Value<'_>) -> bool {
        self.any(set, |had| self.equal(had, item))
    }

    fn contains_all(&self, set: Value<'_>, wanted: Value<'_>) -> bool {
        !self.any(wanted, |item| !self.contains(set, item))
    }

    /// Whether `test` holds for an item of the set.
    fn any(&self, set: Value<'_>, test: impl Fn(Value<'_>) -> bool) -> bool {
        match set {
            Value::Longs(numbers) => numbers.iter().any(|number| test(Value::Long(*number))),
            Value::Texts(Texts::Listed(texts)) => texts.iter().any(|text| test(Value::Text(text))),
            Value::Texts(Texts::Scopes(texts)) => texts.iter().any(|text| test(Value::Text(text))),
            Value::Texts(Texts::Claim(items)) => {
                items.iter().filter_map(Json::as_str).any(|text| test(Value::Text(text)))
            }
            Value::Texts(Texts::One(text)) => test(Value::Text(text)),
            Value::Texts(Texts::Header(name)) => self.lines(name, |line| {
                if self.split {
                    line.split(',').any(|piece| test(Value::Text(piece.trim_matches([' ', '\t']))))
                } else {
                    test(Value::Text(line))
                }
            }),
            Value::Bool(_) | Value::Long(_) | Value::Text(_) => false,
        }
    }

    /// Whether `test` holds for a line of this header. Lines that are no text were refused before.
    fn lines(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        let Some(headers) = self.facts.headers else { return false };
        headers.any_line(name, &mut |line| std::str::from_utf8(line).is_ok_and(&test))
    }

    fn has<'p>(&self, attribute: &'p Attribute) -> Result<bool, Failure<'p>>
    where
        'p: 'f,
    {
        match attribute {
            Attribute::Request => Ok(self.facts.method.is_some()),
            Attribute::User => Ok(self.user.is_some()),
            Attribute::Claim(name, _) => {
                self.user_of(attribute).map(|user| user.claims.contains_key(&**name))
            }
            Attribute::Header(name) => {
                self.request_of(attribute)?;
                Ok(self.lines_exist(name))
            }
            Attribute::Param(name) => {
                self.request_of(attribute)?;
                Ok(self.param(name).is_some())
            }
            Attribute::Actor => self.user_of(attribute).map(|user| user.actor.is_some()),
            Attribute::Namespace => Ok(self.facts.peer.namespace().is_some()),
            Attribute::Account => Ok(self.facts.peer.service_account().is_some()),
            other => self.read(other).map(|_| true),
        }
    }

    fn shown(&self, value: Value<'_>) -> String {
        match value {
            Value::Bool(value) => value.to_string(),
            Value::Long(number) => number.to_string(),
            Value::Text(text) => format!("`{text}`"),
            Value::Texts(_) | Value::Longs(_) => {
                let items = std::cell::RefCell::new(Vec::new());
                self.any(value, |item| {
                    items.borrow_mut().push(self.shown(item));
                    false
                });
                format!("[{}]", items.into_inner().join(", "))
            }
        }
    }

    fn lines_exist(&self, name: &str) -> bool {
        self.facts.headers.is_some_and(|headers| headers.any_line(name, &mut |_| true))
    }

    fn user_of<'p>(&self, attribute: &'p Attribute) -> Result<&'f User, Failure<'p>> {
        self.user.ok_or(Failure::Absent(attribute))
    }

    fn request_of<'p>(&self, attribute: &'p Attribute) -> Result<&'f str, Failure<'p>> {
        self.facts.method.ok_or(Failure::Absent(attribute))
    }

    fn read<'p>(&self, attribute: &'p Attribute) -> Result<Value<'f>, Failure<'p>>
    where
        'p: 'f,
    {
        let facts = self.facts;
        let absent = || Failure::Absent(attribute);
        Ok(match attribute {
            Attribute::PrincipalId => Value::Text(facts.peer.as_str()),
            Attribute::TrustDomain => Value::Text(facts.peer.trust_domain().as_str()),
            Attribute::Namespace => Value::Text(facts.peer.namespace().ok_or_else(absent)?),
            Attribute::Account => Value::Text(facts.peer.service_account().ok_or_else(absent)?),
            Attribute::Class => Value::Text(facts.peer_class.as_str()),
            Attribute::Action => Value::Text(if facts.method.is_some() { "request" } else { "connect" }),
            Attribute::Service => Value::Text(self.service.name.as_str()),
            Attribute::ServiceNamespace => Value::Text(self.service.namespace.as_str()),
            Attribute::Port => Value::Text(facts.port),
            Attribute::Now => Value::Long(facts.now_ms),
            Attribute::Request => Value::Bool(facts.method.is_some()),
            Attribute::User => Value::Bool(self.user.is_some()),
            Attribute::Method => Value::Text(self.request_of(attribute)?),
            Attribute::Param(name) => Value::Text(self.param(name).ok_or_else(absent)?),
            Attribute::Header(name) => self.header(attribute, name)?,
            Attribute::Sub => Value::Text(&self.user_of(attribute)?.sub),
            Attribute::Cred => Value::Text(&self.user_of(attribute)?.cred),
            Attribute::Actor => Value::Text(self.user_of(attribute)?.actor.as_deref().ok_or_else(absent)?),
            Attribute::UserContext => Value::Text(self.user_of(attribute)?.context.as_str()),
            Attribute::Scopes => Value::Texts(Texts::Scopes(&self.user_of(attribute)?.scopes)),
            Attribute::Claim(name, of) => self.claim(attribute, name, *of)?,
        })
    }

    fn claim<'p>(
        &self,
        attribute: &'p Attribute,
        name: &str,
        of: ClaimType,
    ) -> Result<Value<'f>, Failure<'p>> {
        let had = self.user_of(attribute)?.claims.get(name).ok_or(Failure::Absent(attribute))?;
        let value = match (of, had) {
            (ClaimType::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
            (ClaimType::Long, Json::Number(number)) => number.as_i64().map(Value::Long),
            (ClaimType::Text, Json::String(text)) => Some(Value::Text(text)),
            (ClaimType::Texts, Json::String(text)) => Some(Value::Texts(Texts::One(text))),
            (ClaimType::Texts, Json::Array(items)) if items.iter().all(Json::is_string) => {
                Some(Value::Texts(Texts::Claim(items)))
            }
            _ => None,
        };
        value.ok_or(Failure::Type(attribute))
    }

    fn header<'p>(&self, attribute: &'p Attribute, name: &'p str) -> Result<Value<'f>, Failure<'p>>
    where
        'p: 'f,
    {
        self.request_of(attribute)?;
        if !self.lines_exist(name) {
            return Err(Failure::Absent(attribute));
        }
        let Some(headers) = self.facts.headers else { return Err(Failure::Absent(attribute)) };
        if headers.any_line(name, &mut |line| std::str::from_utf8(line).is_err()) {
            return Err(Failure::Type(attribute));
        }
        if headers.any_line(name, &mut |line| line.contains(&b',')) {
            self.is_ambiguous.set(true);
        }
        Ok(Value::Texts(Texts::Header(name)))
    }

    /// The segment, of the first template of the policy that takes the path and names it.
    fn param(&self, name: &str) -> Option<&'f str> {
        let path = self.facts.path?;
        let has_parameters = path.contains(';');
        let both_ways = self.spec.effect != Effect::Permit && has_parameters;
        let takes = |template: &&PathTemplate| {
            template.names_segment(name)
                && (template.matches(path) || both_ways && template.matches_without_parameters(path))
        };
        let had = self.spec.to.as_ref()?.paths.iter().find(takes)?.segment(name, path)?;
        if has_parameters {
            self.is_ambiguous.set(true);
        }
        if self.split { had.split(';').next() } else { Some(had) }
    }
}
