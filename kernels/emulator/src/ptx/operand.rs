//! The operands of a statement, and the parser's small steps.

use super::parse::{Operand, Parser};
use super::{Result, error};

impl Parser {
    pub(super) fn operands(&mut self) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.take(";") {
            let operand = self.operand()?;
            operands.push(operand);
            self.take(",");
        }
        Ok(operands)
    }

    pub(super) fn operand(&mut self) -> Result<Operand> {
        let line = self.line();
        let word = self.next()?;
        let operand = match word.as_str() {
            "[" => {
                let base = self.operand()?;
                // A tensor map's address has coordinates: `[map, {x, y}]`.
                if self.take(",") {
                    let coordinates = self.operand()?;
                    self.expect("]")?;
                    return Ok(Operand::Pair(Box::new(Operand::Address(Box::new(base), 0)), Box::new(coordinates)));
                }
                let (base, mut offset) = match base {
                    Operand::Address(inner, offset) => (*inner, offset),
                    other => (other, 0),
                };
                while !self.take("]") {
                    let negative = self.take("-");
                    if !negative {
                        self.expect("+")?;
                    }
                    let term = self.number()?;
                    offset += if negative { -term } else { term };
                }
                Operand::Address(Box::new(base), offset)
            }
            "{" => Operand::Vector(self.until("}")?),
            "(" => Operand::List(self.until(")")?),
            "!" => Operand::Not(Box::new(self.operand()?)),
            "-" => match self.operand()? {
                Operand::Number(value) => Operand::Number(value.wrapping_neg()),
                _ => return error(line, "`-` before something that is no number"),
            },
            _ => constant(&word).unwrap_or(Operand::Name(word)),
        };
        if self.take("|") {
            let second = self.operand()?;
            return Ok(Operand::Pair(Box::new(operand), Box::new(second)));
        }
        // `name+offset` outside brackets stands in initialisers and in mov of an address.
        if matches!(operand, Operand::Name(_)) && self.peek() == "+" {
            self.at += 1;
            let offset = self.number()?;
            return Ok(Operand::Address(Box::new(operand), offset));
        }
        Ok(operand)
    }

    fn until(&mut self, close: &str) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.take(close) {
            let operand = self.operand()?;
            operands.push(operand);
            self.take(",");
        }
        Ok(operands)
    }

    pub(super) fn number(&mut self) -> Result<i64> {
        let line = self.line();
        let negative = self.take("-");
        let word = self.next()?;
        match constant(&word) {
            Some(Operand::Number(value)) if negative => Ok((value as i64).wrapping_neg()),
            Some(Operand::Number(value)) => Ok(value as i64),
            _ => error(line, format!("expected a number, found `{word}`")),
        }
    }

    pub(super) fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    pub(super) fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", |token| &token.text)
    }

    pub(super) fn next(&mut self) -> Result<String> {
        match self.tokens.get(self.at) {
            Some(token) => {
                self.at += 1;
                Ok(token.text.clone())
            }
            None => error(self.line(), "the text ends in the middle of a statement"),
        }
    }

    pub(super) fn take(&mut self, text: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| !token.quoted && token.text == text);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<()> {
        if self.take(text) { Ok(()) } else { error(self.line(), format!("expected `{text}`, found `{}`", self.peek())) }
    }

    pub(super) fn skip_to(&mut self, text: &str) -> Result<()> {
        while self.next()? != text {}
        Ok(())
    }

    pub(super) fn skip_braces(&mut self) -> Result<()> {
        self.skip_to("{")?;
        self.skip_to("}")
    }
}

/// `12`, `0x1F`, `7U`, `0f3F800000`, `0d3FF0000000000000`.
fn constant(word: &str) -> Option<Operand> {
    if let Some(digits) = word.strip_prefix("0f").or(word.strip_prefix("0F")) {
        return u32::from_str_radix(digits, 16).ok().map(Operand::Float32);
    }
    if let Some(digits) = word.strip_prefix("0d").or(word.strip_prefix("0D")) {
        return u64::from_str_radix(digits, 16).ok().map(Operand::Float64);
    }
    let digits = word.strip_suffix('U').unwrap_or(word);
    let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    value.ok().map(Operand::Number)
}
