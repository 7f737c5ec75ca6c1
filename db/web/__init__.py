"""The page and the JSON API over a model database; needs the extra `web`."""
