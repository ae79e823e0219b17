"""Why a detector errs, as numbers, figures and one page to send."""
