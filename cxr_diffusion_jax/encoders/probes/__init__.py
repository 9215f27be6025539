"""Small networks trained on real images: classifiers of findings, regressors."""
