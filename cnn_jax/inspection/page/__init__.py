"""One web page that explains a trained network number by number.

`content.make` computes what the page shows, as a dict of numbers and arrays; `document.render` puts
it into `page.html`, together with `page.css` and the scripts. The page needs no network access.
"""
