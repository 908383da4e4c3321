// supabase-js against a running gateway; prints how many checks passed, or throws.
import assert from 'node:assert/strict'
import { createClient } from '@supabase/supabase-js'

const { BASE_URL, TOKEN, ESCO, FOREIGN_ESCO } = process.env
const flows = createClient(BASE_URL, TOKEN, {
  db: { schema: 'flows' },
  auth: { persistSession: false, autoRefreshToken: false },
})
let checks = 0
const check = (actual, expected) => {
  assert.deepEqual(actual, expected)
  checks += 1
}
const site = (code, more = {}) => ({ esco: ESCO, name: 'js', code, ...more })
const meters = () => flows.from('meter_registry')
const sites = () => flows.from('sites_new')

let { data, count, error, status } = await meters().select('serial,escos(code)').order('serial').limit(1)
check([data, error], [[{ serial: 'WLCE0001', escos: { code: 'wlce' } }], null])
;({ data, count } = await meters().select('serial', { count: 'exact' }).order('serial').range(2, 3))
check([data.map((row) => row.serial), count], [['WLCE0003', 'WLCE0004'], 13])
;({ data, count } = await meters().select('*', { count: 'exact', head: true }))
check([data, count], [null, 13])
;({ data } = await meters().select('serial').eq('serial', 'WLCE0001').single())
check(data, { serial: 'WLCE0001' })
;({ data, error } = await meters().select('serial').eq('serial', 'none').maybeSingle())
check([data, error], [null, null])
;({ data } = await meters().select('serial').order('serial').limit(1).csv())
check(data, 'serial\nWLCE0001')
;({ data, error, status } = await sites().insert(site('js-1')).select('code'))
check([data, error, status], [[{ code: 'js-1' }], null, 201])
;({ data } = await sites().upsert([site('js-1', { name: 'again' }), site('js-2')], { onConflict: 'code' }).select('name'))
check(data, [{ name: 'again' }, { name: 'js' }])
;({ data } = await sites().update({ location: 'here' }).eq('code', 'js-1').select('location'))
check(data, [{ location: 'here' }])
;({ error, status } = await sites().delete().in('code', ['js-1', 'js-2']))
check([error, status], [null, 204])
;({ data } = await flows.rpc('current_esco').select('code'))
check(data, [{ code: 'wlce' }])
;({ data } = await flows.rpc('current_esco', {}, { get: true }))
check(data[0].code, 'wlce')
;({ error } = await sites().select('nope'))
check([error.code, error.message], ['42703', 'column sites_new.nope does not exist'])
;({ error, status } = await sites().insert(site('js-3', { esco: FOREIGN_ESCO })))
check([error.code, status], ['42501', 403])
const stranger = createClient(BASE_URL, 'wrong', { auth: { persistSession: false } })
;({ error, status } = await stranger.from('escos').select())
check([error.code, status], ['unauthorized', 401])
// As the guide shows it: without a schema, which is `public` to the library.
const plain = createClient(BASE_URL, TOKEN)
;({ data, error } = await plain.from('meter_registry').select('serial').order('serial').limit(1))
check([data, error], [[{ serial: 'WLCE0001' }], null])
;({ data, error } = await plain.from('sites_new').insert(site('js-4')).select('code'))
check([data, error], [[{ code: 'js-4' }], null])
;({ data, error } = await plain.rpc('current_esco').select('code'))
check([data, error], [[{ code: 'wlce' }], null])
// What of Supabase is not here says so.
;({ error } = await plain.auth.signInWithPassword({ email: 'a@example.org', password: 'x' }))
check(error.status, 404)
;({ error } = await plain.storage.from('files').list())
check(/not part of this service/.test(error.message ?? JSON.stringify(error)), true)
;({ error } = await plain.functions.invoke('anything'))
check(error.context.status, 404)
console.log(JSON.stringify({ checks }))
