//! What the status page and `setgate status` say.
