//! The documents that operators write: parsed with their places, judged, compared.
