//! From words and signs to a typed expression, in one pass: grammar and types of the part of Cedar that is taken.

use super::lex::{Token, tokens};
use super::schema::{Attribute, ClaimType, Member, Record, Type};
use super::{Expr, Reads, Refused, literal};
use crate::text::shorten;

/// Brackets within brackets.
const MAX_DEPTH: usize = 24;
/// Operators, attributes and literals.
const MAX_NODES: usize = 256;

pub(super) fn parse(text: &str) -> Result<(Expr, Reads), Refused> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, next: 0, depth: 0, nodes: 0, reads: Reads::default() };
    let whole = parser.or()?;
    let (token, at) = parser.peek();
    if token != Token::End {
        return Err(refused_beyond(token, at));
    }
    let expr = parser.as_type(whole, &Type::Bool)?;
    Ok((expr, parser.reads))
}

/// What follows a whole expression and cannot.
fn refused_beyond(token: Token<'_>, at: usize) -> Refused {
    let expected = match token {
        Token::Sign("+" | "-" | "*" | "/" | "%") => "an operator that cannot fail (there is no arithmetic)",
        Token::Sign("=") => "`==`",
        Token::Sign("<" | ">" | "<=" | ">=" | "==" | "!=") => "one comparison (put brackets around each)",
        _ => "an operator or the end",
    };
    Refused::new(at, expected, token.shown())
}

/// An expression, its type, and where it begins.
struct Typed {
    expr: Expr,
    of: Type,
    at: usize,
}

struct Parser<'t> {
    tokens: &'t [(Token<'t>, usize)],
    next: usize,
    depth: usize,
    nodes: usize,
    reads: Reads,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> (Token<'t>, usize) {
        self.tokens.get(self.next).or(self.tokens.last()).copied().unwrap_or((Token::End, 0))
    }

    fn take(&mut self) -> (Token<'t>, usize) {
        let token = self.peek();
        self.next = self.next.saturating_add(1);
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.peek().0, Token::Sign(had) if had == sign);
        if is_next {
            self.take();
        }
        is_next
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Refused> {
        match self.take() {
            (Token::Sign(had), _) if had == sign => Ok(()),
            (token, at) => Err(Refused::new(at, format!("`{sign}`"), token.shown())),
        }
    }

    fn node(&mut self, at: usize) -> Result<(), Refused> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES {
            return Err(Refused::new(at, format!("at most {MAX_NODES} parts"), "more"));
        }
        Ok(())
    }

    /// Runs one level of brackets or `!` deeper.
    fn deeper<T>(
        &mut self,
        at: usize,
        run: impl FnOnce(&mut Self) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if self.depth >= MAX_DEPTH {
            return Err(Refused::new(at, format!("brackets at most {MAX_DEPTH} deep"), "deeper ones"));
        }
        self.depth = self.depth.saturating_add(1);
        let result = run(self);
        self.depth = self.depth.saturating_sub(1);
        result
    }

    fn or(&mut self) -> Result<Typed, Refused> {
        let (token, at) = self.peek();
        if token == Token::Word("if") {
            return Err(Refused::new(at, "`&&`, `||` and `!`", "`if`, which conditions here do without"));
        }
        self.chain("||", Self::and, Expr::Any)
    }

    fn and(&mut self) -> Result<Typed, Refused> {
        self.chain("&&", Self::relation, Expr::All)
    }

    fn chain(
        &mut self,
        sign: &'static str,
        operand: fn(&mut Self) -> Result<Typed, Refused>,
        join: fn(Box<[Expr]>) -> Expr,
    ) -> Result<Typed, Refused> {
        let first = operand(self)?;
        if self.peek().0 != Token::Sign(sign) {
            return Ok(first);
        }
        let at = first.at;
        let mut operands = vec![self.as_type(first, &Type::Bool)?];
        while self.takes(sign) {
            let next = operand(self)?;
            operands.push(self.as_type(next, &Type::Bool)?);
        }
        Ok(Typed { expr: join(operands.into()), of: Type::Bool, at })
    }

    fn relation(&mut self) -> Result<Typed, Refused> {
        let left = self.unary()?;
        let at = left.at;
        let expr = match self.peek().0 {
            Token::Sign(sign @ ("==" | "!=")) => {
                self.take();
                let right = self.unary()?;
                let equal = Expr::Equal(Box::new(self.same(left, right)?));
                if sign == "==" { equal } else { Expr::Not(Box::new(equal)) }
            }
            Token::Sign(sign @ ("<" | "<=" | ">" | ">=")) => {
                self.take();
                let right = self.unary()?;
                let (left, right) = self.ordered(left, right)?;
                match sign {
                    "<" => Expr::Less(Box::new((left, right))),
                    "<=" => Expr::LessOrEqual(Box::new((left, right))),
                    ">" => Expr::Less(Box::new((right, left))),
                    _ => Expr::LessOrEqual(Box::new((right, left))),
                }
            }
            Token::Word("has") => {
                self.take();
                self.has(left)?
            }
            Token::Word("like") => {
                self.take();
                self.like(left)?
            }
            Token::Word(word @ ("in" | "is")) => {
                let expected = "`==`, or `[…].contains(…)` for one of several";
                return Err(Refused::new(
                    self.peek().1,
                    expected,
                    format!("`{word}`, which is for entities"),
                ));
            }
            _ => return Ok(left),
        };
        Ok(Typed { expr, of: Type::Bool, at })
    }

    /// Two operands of one type.
    fn same(&mut self, left: Typed, right: Typed) -> Result<(Expr, Expr), Refused> {
        let of = match (&left.of, &right.of) {
            (Type::Claim, Type::Claim) => {
                let expected = "something whose type is known on one side";
                return Err(Refused::new(right.at, expected, "two claims"));
            }
            (Type::Claim, known) | (known, _) => known.clone(),
        };
        if let Type::Record(record) = of {
            return Err(Refused::new(left.at, "one of its attributes", record.as_str()));
        }
        Ok((self.as_type(left, &of)?, self.as_type(right, &of)?))
    }

    fn ordered(&mut self, left: Typed, right: Typed) -> Result<(Expr, Expr), Refused> {
        let of = match (&left.of, &right.of) {
            (Type::Claim, Type::Claim) => Type::Long,
            (Type::Claim, known) | (known, _) => known.clone(),
        };
        if !matches!(of, Type::Long | Type::Moment | Type::Span) {
            return Err(Refused::new(left.at, "a whole number, a moment or a span of time", of.as_str()));
        }
        Ok((self.as_type(left, &of)?, self.as_type(right, &of)?))
    }

    /// `record has name`, and `record has name.name`, which is each of them from left to right.
    fn has(&mut self, left: Typed) -> Result<Expr, Refused> {
        let Type::Record(mut record) = left.of else {
            return Err(Refused::new(left.at, "something with attributes before `has`", left.of.as_str()));
        };
        let mut steps = Vec::new();
        loop {
            let (token, at) = self.take();
            let name = match token {
                Token::Word(word) if !is_reserved(word) => word.into(),
                Token::Quoted(raw) if steps.is_empty() => literal::text(raw, at)?,
                _ => return Err(Refused::new(at, "the name of an attribute", token.shown())),
            };
            let next = self.look_up(record, &name, at)?;
            let is_deeper = !matches!(token, Token::Quoted(_)) && self.takes(".");
            let is_value = matches!(next, Member::Value(..));
            match next {
                Member::Value(attribute, _) => steps.push(Expr::Has(attribute)),
                Member::Record(inner, Some(attribute)) => {
                    steps.push(Expr::Has(attribute));
                    record = inner;
                }
                // There as soon as what it is in is, as that one's own attributes are.
                Member::Record(inner, None) => {
                    let beside = if inner == Record::Claims { Attribute::Sub } else { Attribute::Method };
                    steps.push(Expr::Has(beside));
                    record = inner;
                }
            }
            if !is_deeper {
                break;
            }
            if is_value {
                return Err(Refused::new(self.peek().1, "nothing after an attribute that has none", "`.`"));
            }
        }
        for step in &steps {
            if let Expr::Has(attribute) = step {
                self.remember(attribute);
            }
        }
        Ok(if steps.len() == 1 { steps.pop().unwrap_or(Expr::Bool(false)) } else { Expr::All(steps.into()) })
    }

    fn like(&mut self, left: Typed) -> Result<Expr, Refused> {
        let (token, at) = self.take();
        let Token::Quoted(raw) = token else {
            return Err(Refused::new(at, "a pattern in quotes after `like`", token.shown()));
        };
        let place = left.at;
        let text = self.as_type(left, &Type::Text)?;
        let is_identity = |expr: &Expr| {
            matches!(
                expr,
                Expr::Read(
                    Attribute::PrincipalId
                        | Attribute::TrustDomain
                        | Attribute::Namespace
                        | Attribute::Account
                        | Attribute::Sub
                )
            )
        };
        if is_identity(&text) {
            return Err(Refused::new(place, "`==`: an identity is compared whole", "`like`"));
        }
        Ok(Expr::Like(Box::new(text), literal::pattern(raw, at)?))
    }

    fn unary(&mut self) -> Result<Typed, Refused> {
        let (token, at) = self.peek();
        self.node(at)?;
        match token {
            Token::Sign("!") => {
                self.take();
                let inner = self.deeper(at, |parser| {
                    // Cedar takes four at most; nobody needs a second one.
                    if parser.peek().0 == Token::Sign("!") {
                        return Err(Refused::new(parser.peek().1, "one `!`", "`!!`"));
                    }
                    parser.member()
                })?;
                let inner = self.as_type(inner, &Type::Bool)?;
                Ok(Typed { expr: Expr::Not(Box::new(inner)), of: Type::Bool, at })
            }
            Token::Sign("-") => {
                self.take();
                match self.take() {
                    (Token::Number(digits), _) => long(&format!("-{digits}"), at),
                    (token, at) => Err(Refused::new(at, "a whole number after `-`", token.shown())),
                }
            }
            _ => self.member(),
        }
    }

    fn member(&mut self) -> Result<Typed, Refused> {
        let mut value = self.primary()?;
        loop {
            if self.takes(".") {
                let (token, at) = self.take();
                let Token::Word(name) = token else {
                    return Err(Refused::new(at, "the name of an attribute or a method", token.shown()));
                };
                value = if self.takes("(") {
                    self.call(value, name, at)?
                } else if is_reserved(name) {
                    return Err(Refused::new(
                        at,
                        "`[\"…\"]` for a name that is a word of Cedar",
                        token.shown(),
                    ));
                } else {
                    self.attribute(value, name, at)?
                };
            } else if self.takes("[") {
                let (token, at) = self.take();
                let Token::Quoted(raw) = token else {
                    return Err(Refused::new(at, "the name of an attribute in quotes", token.shown()));
                };
                let name = literal::text(raw, at)?;
                self.expect("]")?;
                value = self.attribute(value, &name, at)?;
            } else {
                return Ok(value);
            }
        }
    }

    fn look_up(&mut self, record: Record, name: &str, at: usize) -> Result<Member, Refused> {
        self.node(at)?;
        record.member(name).map_err(|expected| Refused::new(at, expected, format!("`{}`", shorten(name))))
    }

    fn attribute(&mut self, value: Typed, name: &str, at: usize) -> Result<Typed, Refused> {
        let Type::Record(record) = value.of else {
            return Err(Refused::new(
                at,
                "a method or an operator",
                format!("an attribute of {}", value.of.as_str()),
            ));
        };
        let (expr, of) = match self.look_up(record, name, at)? {
            Member::Value(attribute, of) => {
                self.remember(&attribute);
                (Expr::Read(attribute), of)
            }
            // Whether it is there is asked with each attribute of it.
            Member::Record(record, _) => (Expr::Bool(true), Type::Record(record)),
        };
        Ok(Typed { expr, of, at: value.at })
    }

    fn call(&mut self, value: Typed, name: &str, name_at: usize) -> Result<Typed, Refused> {
        let at = value.at;
        self.node(name_at)?;
        let (expr, of) = match name {
            "contains" => {
                let item = self.deeper(name_at, Self::or)?;
                // Numbers only in a list of numbers; everything else that is a set holds texts.
                let (set, of) = match value.of {
                    Type::Longs => (Type::Longs, Type::Long),
                    _ => (Type::Texts, Type::Text),
                };
                let set = self.as_type(value, &set)?;
                (Expr::Contains(Box::new((set, self.as_type(item, &of)?))), Type::Bool)
            }
            "containsAll" | "containsAny" => {
                let other = self.deeper(name_at, Self::or)?;
                let of = match (&value.of, &other.of) {
                    (Type::Longs, _) => Type::Longs,
                    _ => Type::Texts,
                };
                let sides = Box::new((self.as_type(value, &of)?, self.as_type(other, &of)?));
                let join = if name == "containsAll" { Expr::ContainsAll } else { Expr::ContainsAny };
                (join(sides), Type::Bool)
            }
            "isEmpty" => (Expr::IsEmpty(Box::new(self.as_type(value, &Type::Texts)?)), Type::Bool),
            "toTime" => (Expr::TimeOfDay(Box::new(self.as_type(value, &Type::Moment)?)), Type::Span),
            other => {
                let expected = "one of the methods contains, containsAll, containsAny, isEmpty, toTime";
                return Err(Refused::new(name_at, expected, format!("`{}`", shorten(other))));
            }
        };
        self.expect(")")?;
        Ok(Typed { expr, of, at })
    }

    fn primary(&mut self) -> Result<Typed, Refused> {
        let (token, at) = self.take();
        let typed = |expr, of| Ok(Typed { expr, of, at });
        let record = |record| Ok(Typed { expr: Expr::Bool(true), of: Type::Record(record), at });
        match token {
            Token::Word("true") => typed(Expr::Bool(true), Type::Bool),
            Token::Word("false") => typed(Expr::Bool(false), Type::Bool),
            Token::Word("principal") => record(Record::Principal),
            Token::Word("resource") => record(Record::Resource),
            Token::Word("context") => record(Record::Context),
            Token::Word("action") => {
                self.remember(&Attribute::Action);
                typed(Expr::Read(Attribute::Action), Type::Action)
            }
            Token::Word("Action") => self.action(at),
            Token::Word(function @ ("datetime" | "duration")) => self.function(function, at),
            Token::Quoted(raw) => typed(Expr::Text(literal::text(raw, at)?), Type::Text),
            Token::Number(digits) => long(digits, at),
            Token::Sign("(") => {
                let inner = self.deeper(at, Self::or)?;
                self.expect(")")?;
                Ok(Typed { at, ..inner })
            }
            Token::Sign("[") => self.deeper(at, |parser| parser.set(at)),
            token => Err(Refused::new(
                at,
                "principal, action, resource, context, a text, a number, a set, `datetime(…)` or `duration(…)`",
                token.shown(),
            )),
        }
    }

    fn action(&mut self, at: usize) -> Result<Typed, Refused> {
        self.expect("::")?;
        match self.take() {
            (Token::Quoted(name @ ("connect" | "request")), _) => {
                Ok(Typed { expr: Expr::Text(name.into()), of: Type::Action, at })
            }
            (token, at) => Err(Refused::new(at, "\"connect\" or \"request\"", token.shown())),
        }
    }

    fn function(&mut self, name: &str, at: usize) -> Result<Typed, Refused> {
        self.expect("(")?;
        let (token, inner) = self.take();
        let Token::Quoted(raw) = token else {
            return Err(Refused::new(inner, format!("a text in quotes in `{name}(…)`"), token.shown()));
        };
        let text = literal::text(raw, inner)?;
        self.expect(")")?;
        let (expr, of) = match name {
            "datetime" => (Expr::Moment(literal::moment(&text, inner)?), Type::Moment),
            _ => (Expr::Span(literal::span(&text, inner)?), Type::Span),
        };
        Ok(Typed { expr, of, at })
    }

    /// Literals of one type, at least one.
    fn set(&mut self, at: usize) -> Result<Typed, Refused> {
        let (mut texts, mut longs) = (Vec::new(), Vec::new());
        loop {
            let item = self.unary()?;
            match item.expr {
                Expr::Text(text) if item.of == Type::Text && longs.is_empty() => texts.push(text),
                Expr::Long(number) if texts.is_empty() => longs.push(number),
                _ => {
                    let expected = "texts, or whole numbers, as they are in a set";
                    return Err(Refused::new(item.at, expected, item.of.as_str()));
                }
            }
            if !self.takes(",") {
                break;
            }
        }
        self.expect("]")?;
        let (expr, of) = if longs.is_empty() {
            (Expr::Texts(texts.into()), Type::Texts)
        } else {
            (Expr::Longs(longs.into()), Type::Longs)
        };
        Ok(Typed { expr, of, at })
    }

    /// The expression, if it is of this type. A claim takes it on.
    fn as_type(&mut self, value: Typed, wanted: &Type) -> Result<Expr, Refused> {
        let Typed { expr, of, at } = value;
        if of == *wanted && !matches!(of, Type::Record(_) | Type::Claim) {
            return Ok(expr);
        }
        let taken = match wanted {
            Type::Bool => ClaimType::Bool,
            Type::Long => ClaimType::Long,
            Type::Text => ClaimType::Text,
            Type::Texts => ClaimType::Texts,
            _ => return Err(Refused::new(at, wanted.as_str(), of.as_str())),
        };
        match expr {
            Expr::Read(Attribute::Claim(name, _)) if of == Type::Claim => self.claim(name, taken, at),
            _ => Err(Refused::new(at, wanted.as_str(), of.as_str())),
        }
    }

    /// A claim is of one type in all of a condition.
    fn claim(&mut self, name: Box<str>, taken: ClaimType, at: usize) -> Result<Expr, Refused> {
        for attribute in &mut self.reads.attributes {
            let Attribute::Claim(known, of) = attribute else { continue };
            if *known == name {
                match *of {
                    ClaimType::Any => *of = taken,
                    earlier if earlier == taken => {}
                    earlier => {
                        let expected =
                            format!("claim `{}` to be {} as before", shorten(&name), earlier.as_str());
                        return Err(Refused::new(at, expected, taken.as_str()));
                    }
                }
            }
        }
        Ok(Expr::Read(Attribute::Claim(name, taken)))
    }

    fn remember(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::Action
            | Attribute::Request
            | Attribute::Method
            | Attribute::Param(_)
            | Attribute::Header(_) => {
                self.reads.request = true;
            }
            Attribute::User
            | Attribute::Sub
            | Attribute::Cred
            | Attribute::UserContext
            | Attribute::Actor
            | Attribute::Scopes
            | Attribute::Claim(..) => self.reads.user = true,
            Attribute::Now => self.reads.time = true,
            _ => {}
        }
        let is_known = self.reads.attributes.iter().any(|known| match (known, attribute) {
            (Attribute::Claim(a, _), Attribute::Claim(b, _)) => a == b,
            (a, b) => a == b,
        });
        if !is_known {
            self.reads.attributes.push(attribute.clone());
        }
    }
}

fn long(digits: &str, at: usize) -> Result<Typed, Refused> {
    let number = digits.parse().map_err(|_| {
        Refused::new(at, "a whole number of at most 64 bits", format!("`{}`", shorten(digits)))
    })?;
    Ok(Typed { expr: Expr::Long(number), of: Type::Long, at })
}

/// Words of Cedar, which stand for no attribute.
fn is_reserved(word: &str) -> bool {
    matches!(word, "true" | "false" | "if" | "then" | "else" | "in" | "is" | "like" | "has" | "__cedar")
}
