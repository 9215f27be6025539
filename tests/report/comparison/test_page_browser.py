"""The page of a comparison in a browser: errors, images, sorting, phones, the dark."""

from collections.abc import Iterator
import pathlib
import shutil

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

FLAGS = (
  "--headless=new",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
)

pytestmark = pytest.mark.skipif(
  not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on the path"
)


@pytest.fixture(scope="module")
def browser(page: pathlib.Path, tmp_path_factory) -> Iterator:
  """A browser that shows the page; one for all tests."""
  webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium")
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  profile = tmp_path_factory.mktemp("profile")
  for flag in (*FLAGS, f"--user-data-dir={profile}"):
    options.add_argument(flag)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(DRIVER)
  driver = webdriver.Chrome(options=options, service=service)
  driver.get(page.as_uri())
  yield driver
  driver.quit()


def _column(browser, place: int) -> list[float | None]:
  """Values of a column of the main table from top to bottom, None for none."""
  reported = browser.execute_script(
    "return Array.from(document.querySelectorAll('#all tbody tr'),"
    " (row) => row.cells[arguments[0]].dataset.value)",
    place,
  )
  return [float(value) if value else None for value in reported]


def _head(browser, place: int):
  return browser.find_elements("css selector", "#all thead th")[place]


def test_page_loads_without_errors_or_requests(browser):
  assert browser.get_log("browser") == []
  fetched = browser.execute_script(
    "return performance.getEntriesByType('resource').map((entry) => entry.name)"
  )
  assert [name for name in fetched if not name.startswith("data:")] == []


def test_page_shows_all_images(browser):
  sizes = browser.execute_script(
    "return Array.from(document.images, (x) => [x.complete, x.naturalWidth])"
  )
  assert len(sizes) > 50
  assert all(complete and width > 0 for complete, width in sizes)
  drawn = browser.execute_script(
    "return Array.from(document.querySelectorAll('figure svg'),"
    " (x) => x.getBoundingClientRect().height)"
  )
  assert min(drawn) > 100


def test_page_sorts_by_value_on_a_click(browser):
  head = _head(browser, 3)
  before = _column(browser, 3)
  head.find_element("css selector", "button").click()
  assert head.get_attribute("aria-sort") == "ascending"
  values = _column(browser, 3)
  assert values == sorted(before)
  assert values != before
  head.find_element("css selector", "button").click()
  assert head.get_attribute("aria-sort") == "descending"
  assert _column(browser, 3) == sorted(before, reverse=True)


def test_page_sorts_one_column_by_keyboard(browser):
  head = _head(browser, 4)
  button = head.find_element("css selector", "button")
  browser.execute_script("arguments[0].focus()", button)
  button.send_keys("\ue007")
  assert head.get_attribute("aria-sort") == "ascending"
  assert _column(browser, 4) == sorted(_column(browser, 4))
  button.send_keys(" ")
  assert head.get_attribute("aria-sort") == "descending"
  assert _head(browser, 3).get_attribute("aria-sort") == "none"


def test_page_sorts_undefined_values_last(browser):
  browser.execute_script("document.querySelector('#parts').closest('details').open = 1")
  head = browser.find_elements("css selector", "#parts thead th")[4]
  for _ in range(2):
    head.find_element("css selector", "button").click()
    reported = browser.execute_script(
      "return Array.from(document.querySelectorAll('#parts tbody tr'),"
      " (row) => row.cells[4].dataset.value)"
    )
    assert reported.count("") == 2
    assert reported[-2:] == ["", ""]


def test_page_filters_rows(browser):
  reported = browser.execute_script(
    "const select = document.querySelector('select[data-key=kind]');"
    "select.value = 'sex';"
    "select.dispatchEvent(new Event('change', { bubbles: true }));"
    "return [Array.from(document.querySelectorAll('#parts tbody tr:not([hidden])'),"
    " (row) => row.cells[1].textContent),"
    " document.querySelector('.status[data-table=parts]').textContent]"
  )
  assert set(reported[0]) == {"sex: F", "sex: M"}
  assert reported[1].startswith(f"{len(reported[0])} of ")


def test_page_tab_reaches_the_skip_link_first(browser):
  first = browser.execute_script(
    "return document.querySelector('a, button, select, summary, [tabindex]').className"
  )
  assert first == "skip"


@pytest.mark.parametrize("width", [390, 1366])
def test_page_is_never_wider_than_the_screen(browser, width):
  size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
  browser.execute_script(
    "for (const each of document.querySelectorAll('details')) each.open = true"
  )
  result = browser.execute_script("return document.documentElement.scrollWidth")
  assert result <= width


def test_page_is_dark_in_dark_mode(browser):
  def colors(scheme: str) -> list[str]:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return browser.execute_script(
      "return [document.body, document.querySelector('#guidance svg')]"
      ".map((each) => getComputedStyle(each))"
      ".map((style, i) => i ? style.color : style.backgroundColor)"
    )

  light, dark = colors("light"), colors("dark")
  assert light[0] == "rgb(246, 247, 249)"
  assert dark[0] == "rgb(18, 21, 26)"
  assert light[1] != dark[1]
