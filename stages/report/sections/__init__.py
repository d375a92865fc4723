"""The sections of the report: each file computes the variables of one part of `page.html.jinja`."""
