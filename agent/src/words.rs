//! Enums whose values have one word each: in the configuration, in what is told, or in both.

/// An enum, the word of each value, and the value of each word.
macro_rules! words {
    ($( #[$meta:meta] )* $name:ident { $( $( #[$doc:meta] )* $variant:ident $word:literal, )* }) => {
        $( #[$meta] )*
        pub enum $name { $( $( #[$doc] )* $variant, )* }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[ $( Self::$variant, )* ];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str { match self { $( Self::$variant => $word, )* } }

            /// The value with this word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> { match word { $( $word => Some(Self::$variant), )* _ => None } }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.word()) }
        }
    };
}
pub(crate) use words;
