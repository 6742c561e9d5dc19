"""dqk.learn against scikit-learn: its own checks of estimators, and its own models on the same kernels."""

import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel, _approx_fprime
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from dqk import FidelityKernel, ProjectedKernel
from dqk.backends.mps import MPSBackend
from dqk.cluster import open_pool
from dqk.errors import BackendUnavailableError, InvalidInputError, UnsupportedError
from dqk.kernels import Angle, FeatureMap, LinearKernel, RBFKernel
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map, zz_feature_map
from dqk.learn import GPKernel, KernelClassifier, KernelRegressor, NystroemFeatures

# For reasons that are not dqk's; scikit-learn's own SVC fails the same check, by as much.
EXPECTED_FAILURES = {
    "KernelClassifier": {
        "check_sample_weight_equivalence_on_dense_data": (
            "libsvm with weights of 2 differs from libsvm with samples repeated by about 1e-3 in decision values"
        )
    }
}


@parametrize_with_checks(
    [KernelClassifier(), KernelRegressor(), NystroemFeatures(n_components=10)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES.get(type(estimator).__name__, {}),
)
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer samples than landmarks, say
        check(estimator)


IRIS = load_iris(return_X_y=True)
X, Y = MinMaxScaler((-1, 1)).fit_transform(IRIS[0]), IRIS[1]


def kernel(bandwidth: float = 1.0) -> FidelityKernel:
    return FidelityKernel(reuploading_feature_map(4, layers=2, bandwidth=bandwidth))


class TestClassifier:
    def test_is_svc(self):
        ours, theirs = (
            KernelClassifier(kernel(), C=2.0).fit(X[::2], Y[::2]),
            SVC(kernel=kernel(), C=2.0).fit(X[::2], Y[::2]),
        )
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-9)
        assert list(ours.predict(X)) == list(theirs.predict(X))
        assert ours.support_vectors_.shape == (len(theirs.support_), 4)

    def test_weights_of_zero_leave_samples_out(self):
        """Where scikit-learn's own SVC on precomputed matrices predicts something else."""
        weights = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)
        kept = weights > 0
        ours = KernelClassifier(RBFKernel(4), tol=1e-9).fit(X, Y, weights)
        expected = SVC(gamma=0.5, tol=1e-9).fit(X[kept], Y[kept], weights[kept])
        np.testing.assert_allclose(ours.decision_function(X), expected.decision_function(X), atol=1e-6)
        with pytest.raises(InvalidInputError, match="all samples have zero or negative weights"):
            ours.fit(X, Y, -weights)

    @pytest.mark.parametrize("model", [KernelClassifier(kernel()), SVC(kernel=kernel())], ids=type)
    def test_a_grid_search_tunes_the_bandwidth(self, model):
        search = GridSearchCV(model, {"kernel__bandwidth": [0.01, 0.5], "C": [1.0, 10.0]}, cv=3).fit(X, Y)
        assert search.best_params_["kernel__bandwidth"] == 0.5
        by_hand = [cross_val_score(SVC(kernel=kernel(b), C=1.0), X, Y, cv=3).mean() for b in (0.01, 0.5)]
        scores = {(p["kernel__bandwidth"], p["C"]): s for p, s in _scores(search)}
        assert [scores[b, 1.0] for b in (0.01, 0.5)] == pytest.approx(by_hand)
        assert model.kernel.bandwidth == 1.0  # what the search was given is left alone

    def test_goes_into_pipelines_and_onto_workers(self):
        with open_pool("inline", 2) as pool:
            busy = FidelityKernel(bsp_feature_map(4), executor=pool)
            model = make_pipeline(MinMaxScaler((-1, 1)), KernelClassifier(busy))
            search = GridSearchCV(model, {"kernelclassifier__kernel__bandwidth": [0.1, 0.5]}, cv=2).fit(*IRIS)
            assert search.score(*IRIS) > 0.9
            assert search.best_estimator_[-1].kernel_.executor is pool

    def test_one_class_a_constant_column_and_other_widths(self):
        with pytest.raises(ValueError, match="number of classes has to be greater than one"):
            KernelClassifier(kernel()).fit(X, np.zeros(len(X)))
        constant = np.column_stack([X[:, :3], np.full(len(X), 0.3)])
        assert KernelClassifier(kernel()).fit(constant, Y).score(constant, Y) > 0.9
        with pytest.raises(InvalidInputError, match="X has 3 features, but the kernel takes 4"):
            KernelClassifier(kernel()).fit(X[:, :3], Y)
        with pytest.raises(InvalidInputError, match="kernel is 'rbf', expected a dqk kernel"):
            KernelClassifier("rbf").fit(X, Y)
        with pytest.raises(ValueError, match="Invalid parameter 'kernel__bandwith'|bandwith"):
            KernelClassifier(kernel()).set_params(kernel__bandwith=1.0)
        with pytest.raises(NotFittedError):
            KernelClassifier(kernel()).predict(X)


def _scores(search):
    return zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)


def test_clones_keep_training_and_share_nothing():
    trained = FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations"))
    for copied in (clone(trained), clone(KernelClassifier(trained)).kernel, clone(SVC(kernel=trained)).kernel):
        assert copied is not trained and torch.equal(copied.params, trained.params)
        assert copied.params.data_ptr() != trained.params.data_ptr()
    fitted = KernelClassifier(kernel()).fit(X, Y)
    assert not hasattr(clone(fitted), "svc_")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))


def test_regressor_is_kernel_ridge():
    x, y = load_diabetes(return_X_y=True)
    x = np.tanh(StandardScaler().fit_transform(x[:120, :3]))
    targets = np.column_stack([y[:120], y[:120] ** 2])
    k = ProjectedKernel(zz_feature_map(3, bandwidth=0.3))
    ours = KernelRegressor(k, alpha=0.1).fit(x, targets, np.arange(1, 121))
    theirs = KernelRidge(kernel="precomputed", alpha=0.1).fit(k(x), targets, np.arange(1, 121))
    np.testing.assert_allclose(ours.predict(x[:9]), theirs.predict(k(x[:9], x)), rtol=1e-9)
    # What scikit-learn does with a callable: one call for each pair of samples.
    pairwise = KernelRidge(kernel=k, alpha=0.1).fit(x[:15], y[:15])
    np.testing.assert_allclose(
        KernelRegressor(k, alpha=0.1).fit(x[:15], y[:15]).predict(x), pairwise.predict(x), rtol=1e-8
    )


class TestNystroem:
    def test_is_scikit_learns(self):
        ours = NystroemFeatures(kernel(), 12, random_state=3).fit(X[:40])
        theirs = Nystroem(kernel=kernel(), n_components=12, random_state=3).fit(X[:40])
        np.testing.assert_array_equal(ours.component_indices_, theirs.component_indices_)
        np.testing.assert_allclose(ours.transform(X[:9]), theirs.transform(X[:9]), atol=1e-8)
        assert list(ours.get_feature_names_out())[:2] == ["nystroemfeatures0", "nystroemfeatures1"]

    @pytest.mark.parametrize("landmarks", ["random", "k-means++"])
    def test_is_exact_on_landmarks(self, landmarks):
        features = NystroemFeatures(kernel(), 30, landmarks=landmarks, random_state=0).fit(X)
        z = features.transform(features.components_)
        np.testing.assert_allclose(z @ z.T, kernel()(features.components_), atol=1e-7)
        assert len({*features.component_indices_}) == 30
        np.testing.assert_array_equal(features.components_, X[features.component_indices_])

    def test_landmarks_that_are_one_do_no_harm(self):
        """The matrix of repeated samples is singular; its rank is that of the different ones."""
        repeated = np.repeat(X[:10:2], 8, axis=0)
        z = NystroemFeatures(kernel(), 40, random_state=0).fit_transform(repeated)
        np.testing.assert_allclose(z @ z.T, kernel()(repeated), atol=1e-9)
        assert np.isfinite(z).all() and np.abs(z).max() < 1.5
        linear = NystroemFeatures(LinearKernel(4), 20).fit_transform(X)
        np.testing.assert_allclose(linear @ linear.T, X @ X.T / 4, atol=1e-9)

    def test_keeps_precision(self):
        features = NystroemFeatures(kernel(), 20, random_state=0).fit(X)
        low = features.transform(X.astype(np.float32))
        assert low.dtype == np.float32
        assert NystroemFeatures(kernel(), 5).fit(X.astype(np.float32)).normalization_.dtype == np.float64

    def test_fewer_samples_than_landmarks_and_bad_settings(self):
        with pytest.warns(UserWarning, match="n_components is 200, but there are 150 samples"):
            assert NystroemFeatures(RBFKernel(4), 200).fit_transform(X).shape == (150, 150)
        with pytest.raises(InvalidInputError, match="unknown landmarks 'kmeans'"):
            NystroemFeatures(RBFKernel(4), 5, landmarks="kmeans").fit(X)
        with pytest.raises(InvalidInputError, match="n_components is 0"):
            NystroemFeatures(RBFKernel(4), 0).fit(X)
        with pytest.raises(InvalidInputError, match="the kernel is 0 on all landmarks"):
            NystroemFeatures(LinearKernel(4), 5).fit(np.zeros((9, 4)))


def with_crx() -> FeatureMap:
    """A data angle and a shared angle of controlled rotations, whose shift rules have four terms."""
    from dqk.circuit import Circuit, Gate, data, shared

    gates = (Gate("h", (0,)), Gate("ry", (1,), data(0)), Gate("crx", (0, 1), shared(0)), Gate("cry", (1, 0), data(1)))
    angles = (Angle(1.0, ((0, 0.0, 1.0),)), Angle(-1.3, ((1, 0.2, 1.0), (0, 0.5, 1.0))))
    return FeatureMap("crx", Circuit(2, gates, 2, 1), 2, angles, 1, "rotations")


GP_KERNELS = {
    "zz": lambda: FidelityKernel(zz_feature_map(2)),
    "product": lambda: FidelityKernel(reuploading_feature_map(1, 2)),
    "rotations": lambda: FidelityKernel(reuploading_feature_map(2, 2, trainable="rotations")),
    "scale": lambda: FidelityKernel(reuploading_feature_map(2, 2, trainable="scale"), backend="reference"),
    "controlled rotations": lambda: FidelityKernel(with_crx()),
    "projected": lambda: ProjectedKernel(reuploading_feature_map(2, 1, trainable="rotations"), gamma=0.6),
    "rbf": lambda: RBFKernel(2, 0.7, trainable="scale"),
    "linear": lambda: LinearKernel(2, trainable="scale"),
    "composed": lambda: (
        FidelityKernel(bsp_feature_map(2)) + 0.5 * ProjectedKernel(with_crx()) * RBFKernel(2, trainable="scale")
    ),
}


class TestGaussianProcesses:
    @pytest.mark.parametrize("name", GP_KERNELS)
    def test_gradient_is_scikit_learns_numerical_one(self, name):
        torch.manual_seed(2)
        k = GPKernel(GP_KERNELS[name](), bandwidth=0.8)
        x = np.random.default_rng(0).uniform(-1, 1, (7, k.kernel.n_features))
        matrix, gradient = k(x, eval_gradient=True)
        assert gradient.shape == (7, 7, k.n_dims) and k.n_dims == 1 + sum(p.numel() for p in k.kernel.parameters())
        numerical = [_approx_fprime(k.theta, lambda theta: k.clone_with_theta(theta)(x), e) for e in (2e-6, -2e-6)]
        np.testing.assert_allclose(gradient, sum(numerical) / 2, atol=2e-9)
        np.testing.assert_allclose(k(x), matrix, atol=1e-13)
        np.testing.assert_allclose(k.kernel(0.8 * x), matrix, atol=2e-6)  # parameters in single precision
        np.testing.assert_allclose(k.diag(x), matrix.diagonal(), atol=1e-13)
        np.testing.assert_allclose(k(x, x[:3]), matrix[:, :3], atol=1e-12)

    @pytest.mark.parametrize("name", ["rotations", "composed"])
    def test_fixed_hyperparameters_have_no_part_in_theta(self, name):
        k, x = GP_KERNELS[name](), np.random.default_rng(1).uniform(-1, 1, (5, 2))
        whole = GPKernel(k)(x, eval_gradient=True)[1]
        width = GPKernel(k, weights_bounds="fixed")
        assert width.n_dims == 1 and width.bounds.shape == (1, 2)
        np.testing.assert_array_equal(width(x, eval_gradient=True)[1], whole[:, :, :1])
        others = GPKernel(k, bandwidth_bounds="fixed")
        np.testing.assert_array_equal(others(x, eval_gradient=True)[1], whole[:, :, 1:])
        assert GPKernel(k, 1.0, None, "fixed", "fixed")(x, eval_gradient=True)[1].shape == (5, 5, 0)

    def test_regression_finds_bandwidth_and_noise(self):
        rng = np.random.default_rng(3)
        x = rng.uniform(-1, 1, (60, 2))
        y = np.sin(2 * x[:, 0]) * x[:, 1] + 0.05 * rng.normal(size=60)
        kernel = ConstantKernel(1.0) * GPKernel(FidelityKernel(bsp_feature_map(2))) + WhiteKernel(0.1)
        model = GaussianProcessRegressor(kernel, random_state=0).fit(x[:40], y[:40])
        before = GaussianProcessRegressor(kernel, optimizer=None).fit(x[:40], y[:40])
        assert model.log_marginal_likelihood_value_ > before.log_marginal_likelihood_value_ + 5
        assert model.score(x[40:], y[40:]) > 0.9
        _, gradient = model.log_marginal_likelihood(model.kernel_.theta, eval_gradient=True)
        inside = (model.kernel_.theta > model.kernel_.bounds[:, 0] + 0.01) & (
            model.kernel_.theta < model.kernel_.bounds[:, 1] - 0.01
        )
        assert np.abs(gradient[inside]).max() < 0.1
        mean, deviation = model.predict(x[40:], return_std=True)
        assert deviation.shape == mean.shape == (20,) and (deviation > 0).all()

    def test_classification_and_trained_rotations(self):
        torch.manual_seed(0)
        k = GPKernel(FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations")))
        x, y = X[:100:3, :2], Y[:100:3]
        model = GaussianProcessClassifier(k, random_state=0).fit(x, y)
        assert model.score(x, y) > 0.9
        assert not np.allclose(model.kernel_.weights, k._values())
        assert "GPKernel(FidelityKernel, " in repr(model.kernel_)
        again = clone(model.kernel_)
        np.testing.assert_array_equal(again(x), model.kernel_(x))

    @pytest.mark.parametrize("name", GP_KERNELS)
    def test_a_kernel_equals_its_clone_and_no_other(self, name):
        """As `RBF(1.0) == clone(RBF(1.0))` of scikit-learn, alone and in its sums and products."""
        k = GPKernel(GP_KERNELS[name](), 0.8)
        assert k == clone(k) and k + WhiteKernel() == WhiteKernel() + clone(k)
        assert clone(k).set_params(bandwidth=0.7) != k and clone(k).set_params(bandwidth_bounds="fixed") != k
        assert k.clone_with_theta(k.theta + 0.1) != k and k != RBF() and k != GPKernel(LinearKernel(2), 0.8)

    def test_angles_are_those_between_2_pi_and_6_pi_that_do_the_same(self):
        k = FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations"))
        k.params.data[:2] = torch.tensor([0.5, -0.5])
        np.testing.assert_allclose(GPKernel(k)._values()[:2], [4 * np.pi + 0.5, 4 * np.pi - 0.5], rtol=1e-6)

    def test_what_kernels_differ_in(self):
        def made(layers=1, backend="auto", value=None, bounds=None, factor=2.0):
            k = FidelityKernel(reuploading_feature_map(2, layers, trainable="scale"), backend)
            if value is not None:
                k.params.data[1] = value
            return GPKernel(factor * k, weights_bounds=bounds)

        assert made() == made() == made(value=1.0) and made(backend=MPSBackend()) == made(backend=MPSBackend())
        for other in (
            made(layers=2),
            made(backend="reference"),
            made(backend=MPSBackend(max_bond=2)),
            made(value=1.5),
            made(bounds="fixed"),
            made(factor=3.0),
        ):
            assert made() != other and other == clone(other)
        assert made(backend=MPSBackend()) != made(backend=MPSBackend(max_bond=2))

    def test_refuses(self):
        from dqk.circuit import Circuit, Gate, data

        circuit = Circuit(1, (Gate("ry", (0,), data(0)),), 1)
        custom = FeatureMap("f", circuit, 1, None, 1, "custom", 1.0, lambda x, p: (p * x, x.new_empty(0)))
        for call, error, message in (
            (lambda: GPKernel("rbf"), InvalidInputError, "kernel is 'rbf'"),
            (lambda: GPKernel(RBFKernel(1), bandwidth=0), InvalidInputError, "bandwidth is 0"),
            (lambda: GPKernel(FidelityKernel(custom)), UnsupportedError, "neither scales nor rotations"),
            (lambda: GPKernel(FidelityKernel(bsp_feature_map(1), shots=9)), UnsupportedError, "is measured"),
            (
                lambda: GPKernel(RBFKernel(1))(np.zeros((2, 1)), np.zeros((1, 1)), True),
                InvalidInputError,
                "leave Y out",
            ),
            (
                lambda: GPKernel(RBFKernel(1)).clone_with_theta(np.zeros(2)),
                InvalidInputError,
                "theta has 2 entries, expected 1",
            ),
        ):
            with pytest.raises(error, match=message):
                call()
        negative = RBFKernel(1, trainable="scale")
        negative.params.data.neg_()
        with pytest.raises(InvalidInputError, match="a trainable scale is -1"):
            GPKernel(negative)


def test_without_scikit_learn_the_install_line():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import dqk, dqk.learn, dqk.kernels\n"
        "try:\n    dqk.learn.NystroemFeatures\n"
        "except dqk.errors.BackendUnavailableError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "NystroemFeatures needs scikit-learn: pip install 'dqk[sklearn]'" in done.stdout, done.stderr
    assert issubclass(BackendUnavailableError, RuntimeError)
