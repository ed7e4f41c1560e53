"""``report.html``: one run or several as a page that needs no network."""
