import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import PROJECT, compress, model, svd
from helpers.backend import keras
from helpers.lab import page

COMMITTED = PROJECT / "figures" / page.NAME
BROWSERS = "chromium", "google-chrome", "chrome", "chromium-browser"


def small(width=32):
    """As the baseline is built, but narrow."""
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, "relu", name=f"hidden_{i}") for i in range(1, 4)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, name="output")])


@pytest.fixture(scope="module")
def network(few):
    trained = small()
    trained.compile("adam", page.LOSS)
    trained.fit(*few.train, epochs=15, verbose=0)
    return trained


@pytest.fixture(scope="module")
def measured(network, few):
    return page.measure(network, small(), few, [3, 1]) | {"epochs": 15, "seed": 0}


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="measured">(.*?)</script>', text, re.DOTALL)[1])


def pixels(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)


def test_a_cut_is_what_compress_makes(measured, network, few):
    plain, seen = compress.decompose(network), compress.observe(network, few.x_train, page.LOSS)
    assert measured["D"] == [1, 3, 32]
    ranks = {page.PLAIN: dict.fromkeys(plain, 3), page.BEST: compress.shared_ranks(seen.svds, 3)}
    cuts = {page.PLAIN: compress.factorize(network, 3)}
    cuts[page.BEST] = seen.layer_by_layer(ranks[page.BEST])
    for method, cut in cuts.items():
        found = measured["methods"][method][1]
        assert found["ranks"] == [*ranks[method].values()]
        assert found["parameters"] == compress.kept_parameters(network, ranks[method])
        assert len(found["s"]) == found["ranks"][0]
        U, Vt = (part.get_weights()[0] for part in cut.layers[:2])
        assert found["accuracy"] == pytest.approx(model.accuracy(cut, *few.test), abs=2e-3)
        assert np.allclose(found["s"], svd.decompose(U @ Vt).s[: len(found["s"])], rtol=1e-3)


def test_misread_digits_are_read_right_by_the_uncut_network(measured, network, few):
    right = model.logits(network, few.x_test).argmax(axis=1) == few.y_test
    for D, found in zip([1, 3], measured["methods"][page.PLAIN], strict=False):
        read = model.logits(compress.truncate(network, D), few.x_test).argmax(axis=1)
        worse = [i for i in range(len(read)) if right[i] and read[i] != few.y_test[i]]
        assert found["misread"] == len(worse) > 0
        assert found["digits"] == [[i, few.y_test[i], read[i]] for i in worse[: page.DIGITS]]
        for i in worse[: page.DIGITS]:
            ink = 255 - pixels(measured["images"][str(i)])[..., 0]
            assert np.allclose(ink, 255 * few.x_test[i].reshape(28, 28), atol=1)


def test_all_singular_values_kept_is_the_uncut_network(measured, network, few):
    for cuts in measured["methods"].values():
        last, accuracy = cuts[-1], model.accuracy(network, *few.test)
        assert (last["accuracy"], last["parameters"]) == (accuracy, network.count_params())
        assert (last["misread"], last["digits"], last["W_D"]) == (0, [], measured["W"])


def test_pictures_are_orange_below_zero_and_purple_above(measured, network):
    """Every second of the 32 columns, four in a row; beyond the scale, the colour of its end."""
    W, top = network.get_layer("hidden_1").get_weights()[0], measured["top"]
    picture, scale = pixels(measured["W"]), pixels(measured["scale"])[0]
    red, _, blue = np.moveaxis(picture, -1, 0)
    assert red.shape == (116, 116)
    assert scale[0, 0] - scale[0, 2] > 60  # orange
    assert scale[-1, 2] - scale[-1, 0] > 20  # purple
    columns = np.full((116, 116), 0.0)
    for k in range(16):
        down, across = 29 * (k // 4), 29 * (k % 4)
        columns[down : down + 28, across : across + 28] = W[:, 2 * k].reshape(28, 28)
    assert (red > blue)[columns < -0.1 * top].all()
    assert (blue > red)[columns > 0.1 * top].all()
    assert (picture[columns == 0] > 235).all()  # white: between the images, and at 0
    assert (picture[columns < -1.001 * top] == scale[0]).all()
    assert (picture[columns > 1.001 * top] == scale[-1]).all()
    assert np.abs(columns).max() > 1.001 * top


def test_the_page_holds_what_was_measured_whatever_it_is_called(measured, tmp_path):
    named = measured | {"dataset": "</script><b>$measured"}
    page.write(named, tmp_path / "page.html")
    assert data_of(tmp_path / "page.html") == json.loads(json.dumps(named))
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("</script>") == 2


def test_the_page_needs_nothing_else_and_is_small():
    text = COMMITTED.read_text(encoding="utf-8")
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert re.findall(r"//\w[^\s\"']+", text) == ["//www.w3.org/2000/svg"]  # the name of a kind
    assert re.findall(r' (?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "default-src 'none'" in text
    assert COMMITTED.stat().st_size < 2e6


def test_the_committed_page_is_what_the_template_makes_now(tmp_path):
    page.write(data_of(COMMITTED), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == COMMITTED.read_bytes()


def test_the_command_writes_the_page(few, tmp_path, monkeypatch, capsys):
    """Of noise shrunk to a fifth, whose edge is the largest singular value."""
    noise = np.random.default_rng(0).normal(0, model.initial_std(784), (784, 400))

    def of_noise(share):
        network = small(400)
        network.layers[0].kernel.assign(share * noise)
        return network

    asked = []
    monkeypatch.setenv("SVD_FIGURES", str(tmp_path))
    monkeypatch.setattr(page.data, "load", lambda dataset: asked.append(dataset) or few)
    kept = page.store.Baseline(of_noise(0.2), {}, 1.0)
    monkeypatch.setattr(page.store, "baseline", lambda *given: asked.append(given) or kept)
    monkeypatch.setattr(page.model, "build", lambda seed: of_noise(1))
    assert page.main(["--D", "500", "2", "--dataset", "subset", "--seed", "7"]) == 0
    assert asked == ["subset", (few, 15, 7)]
    found = data_of(tmp_path / page.NAME)
    assert (found["D"], found["seed"], found["epochs"]) == ([2, 400], 7, 15)
    assert found["edge"] == pytest.approx(svd.decompose(0.2 * noise).s[0], rel=0.02)
    assert capsys.readouterr().out.endswith(f"Written: {page.NAME} in {tmp_path.name}/\n")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--D", "5", "0"], "D must be a whole number of singular values, at least 1, not 0."),
        (["--seed", "-1"], "seed must be a whole number from 0 to 2**32 - 1, not -1."),
        (["--dataset", "letters"], "dataset 'letters' is unknown"),
    ],
)
def test_a_wrong_argument_is_one_sentence_before_any_work(wrong, says, monkeypatch, capsys):
    monkeypatch.delattr(page.store, "baseline")
    assert page.main(wrong) == 2
    error = capsys.readouterr().err
    assert (error[: len(says)], error.count("\n")) == (says, 1)


# In a browser


@pytest.fixture(scope="module")
def browser():
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not binary or not shutil.which("chromedriver"):
        pytest.skip("no Chromium with its chromedriver is installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Neither root nor a container has what the sandbox and shared memory need.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def loaded(browser):
    """Opens the page once for all tests: the data in it."""
    browser.get(COMMITTED.as_uri())
    return data_of(COMMITTED)


@pytest.fixture
def opened(loaded, browser):
    """A function that shows the page from its start, on a screen so wide and in a scheme."""

    def open_page(width=1000, scheme="light"):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        preferred = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        browser.execute_script("document.querySelector('form').reset(); show()")
        return browser.find_element("id", "D")

    yield open_page, loaded
    assert browser.get_log("browser") == []  # of the console


def press(element, key):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(getattr(Keys, key))


def table(browser, name):
    """The rows of a table, a list of texts each."""
    script = """return [...document.getElementById(arguments[0]).rows].map(
        (row) => [...row.cells].map((cell) => cell.textContent))"""
    return browser.execute_script(script, name)


def shows(browser):
    """What changes when the slider or the choice of a method does."""
    return browser.execute_script("""
        const at = (id) => document.getElementById(id);
        return {says: at("says").textContent, value: at("D").getAttribute("aria-valuetext"),
            W_D: at("W_D").src, rest: at("rest").src, rank: at("rank").textContent,
            misread: at("misread").textContent, digits: at("digits").textContent,
            marks: at("spectrum").querySelectorAll("circle, polygon").length,
            chart: at("accuracies").innerHTML}""")


def percent(cut):
    return f"{100 * cut['accuracy']:.2f}\N{NO-BREAK SPACE}%"


def test_arrow_keys_move_the_slider_and_numbers_follow(opened, browser):
    open_page, measured = opened
    slider = open_page()
    press(slider, "HOME")
    plain, best = measured["methods"].values()
    seen = []
    for i, D in enumerate(measured["D"]):
        text, found = dict((r[0], r[1:]) for r in table(browser, "numbers")), shows(browser)
        three, cut = (plain[i], best[i], plain[-1]), plain[i]
        assert text["test accuracy"] == [*map(percent, three)]
        assert text["parameters"] == [f"{each['parameters']:,}" for each in three]
        megabytes = [4e-6 * each["parameters"] for each in three]
        assert text["bytes"] == [f"{size:.2f}\N{NO-BREAK SPACE}MB" for size in megabytes]
        assert found["says"] == ("D = all" if cut is plain[-1] else f"D = {D}")
        assert found["value"].startswith(found["says"] + ", test accuracy")
        assert (found["W_D"], found["rest"]) == (cut["W_D"], cut["rest"])
        assert found["rank"] == str(len(cut["s"]))
        assert found["digits"] == "".join(f"{y} read as {read}" for _, y, read in cut["digits"])
        assert found["misread"].startswith((f"{cut['misread']:,} test", "One test", "No test"))
        seen.append(found["chart"])
        press(slider, "ARROW_RIGHT")
    assert len(set(seen)) == len(measured["D"])


def test_the_other_method_is_chosen_by_keyboard(opened, browser):
    open_page, measured = opened
    press(open_page(), "HOME")
    before = shows(browser)
    press(browser.find_element("css selector", "input[value=plain]"), "ARROW_RIGHT")
    after, cut = shows(browser), measured["methods"][page.BEST][0]
    assert before["W_D"] != after["W_D"] == cut["W_D"]
    assert (after["rank"], after["marks"]) == (str(len(cut["s"])), len(cut["s"]))


def test_all_numbers_stand_in_a_table(opened, browser):
    open_page, measured = opened
    open_page()
    _, *rows = table(browser, "all")
    for row, *cuts in zip(rows, *measured["methods"].values(), strict=True):
        assert row[1::2] == [*map(percent, cuts)]
        assert row[2::2] == [f"{cut['parameters']:,}" for cut in cuts]


def test_the_handle_stands_above_its_D_in_the_chart(opened, browser):
    """The handle of Chromium is 16 pixels wide."""
    open_page, _ = opened
    for width in (1000, 360):
        slider = open_page(width)
        for key in ("HOME", "ARROW_RIGHT", "END"):
            press(slider, key)
            handle, line = browser.execute_script("""
                const slider = document.getElementById("D"), box = slider.getBoundingClientRect();
                const mark = document.querySelector("#accuracies .mark").getBoundingClientRect();
                const share = slider.valueAsNumber / slider.max;
                return [box.left + 8 + share * (box.width - 16), mark.left + mark.width / 2]""")
            assert handle == pytest.approx(line, abs=1)


def test_on_a_phone_nothing_is_wider_than_the_screen(opened, browser):
    open_page, _ = opened
    slider = open_page(width=360)
    browser.find_element("tag name", "summary").click()
    wide = """return [...document.querySelectorAll("*")].filter((e) => e.scrollWidth > 360
        || e.getBoundingClientRect().right > 360).map((e) => e.tagName + e.id)"""
    for key in ("HOME", "END"):
        press(slider, key)
        assert browser.execute_script(wide) == []


CONTRASTS = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = light(getComputedStyle(document.body).backgroundColor);
const contrast = (colour) => {
  const other = light(colour);
  return (Math.max(ground, other) + 0.05) / (Math.min(ground, other) + 0.05);
};
const words = "h1, h2, p, label, legend, th, td, figcaption, summary";
const texts = [...document.querySelectorAll(words)];
const lines = [...document.querySelectorAll(".curve, .mark, .dotted, .dashed, .all")];
const numbers = [...document.querySelectorAll("svg text")];
return {ground, text: Math.min(...texts.map((e) => contrast(getComputedStyle(e).color)),
    ...numbers.map((e) => contrast(getComputedStyle(e).fill))),
  line: Math.min(...lines.map((e) => contrast(getComputedStyle(e).stroke))),
  count: [texts.length, lines.length, numbers.length]};
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(scheme, opened, browser):
    """By WCAG 2.2: 4.5 for text, 3 for what a picture needs."""
    open_page, _ = opened
    open_page(scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert (found["ground"] < 0.05) == (scheme == "dark")
    assert min(found["count"]) > 4
    assert found["text"] >= 4.5
    assert found["line"] >= 3


def test_pictures_have_words_and_controls_have_names(opened, browser):
    open_page, _ = opened
    open_page()
    unnamed = """return [...document.querySelectorAll("img, svg[role=img], input")].filter((e) =>
        e.matches("input") ? !e.labels.length : !(e.alt || e.getAttribute("aria-label"))).length"""
    assert browser.execute_script(unnamed) == 0


def test_nothing_is_asked_of_a_network(opened, browser):
    open_page, _ = opened
    open_page()
    asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all(name.startswith("data:") for name in browser.execute_script(asked))
