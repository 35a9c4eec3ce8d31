"""How often one may ask. What else stands before the application: test_server.py and test_protected_daemon.py."""

from exporter.web.guard import _Bucket


def test_a_bucket_is_full_at_first_and_fills_by_one_each_interval_up_to_its_size():
    bucket = _Bucket()

    def taken(now_seconds):
        return bucket.take(now_seconds, interval_seconds=10.0, burst=2)

    assert [taken(100.0) for _ in range(3)] == [True, True, False]
    assert [taken(109.0), taken(110.0), taken(110.0)] == [False, True, False]
    assert [taken(1_000.0) for _ in range(3)] == [True, True, False], "no more than its size was saved up"


def test_without_an_interval_there_is_no_limit():
    bucket = _Bucket()
    assert all(bucket.take(100.0, interval_seconds=0.0, burst=1) for _ in range(100))
